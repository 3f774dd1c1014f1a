"""Encoders x data sets x tasks under one protocol, and a leaderboard of them: `cxr_embed.bench`."""

from __future__ import annotations

from cxr_embed.benchmark.bench import BenchResult, bench
from cxr_embed.benchmark.plan import Plan, PlanError, read_plan

__all__ = ["BenchResult", "Plan", "PlanError", "bench", "read_plan"]
