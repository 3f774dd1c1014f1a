"""The leaderboard that a benchmark writes: `cxr_embed.reporting.leaderboard` knows how."""

from __future__ import annotations

from cxr_embed.reporting.leaderboard import write_leaderboard

__all__ = ["write_leaderboard"]
