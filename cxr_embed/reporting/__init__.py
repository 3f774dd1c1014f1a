"""A report on scores, probes and their vectors: one page, and the same as JSON, Markdown and CSV."""

from __future__ import annotations

from cxr_embed.reporting.collect import collect
from cxr_embed.reporting.inputs import Inputs, ReportError
from cxr_embed.reporting.write import check_target, write_report

__all__ = ["Inputs", "ReportError", "check_target", "collect", "write_report"]
