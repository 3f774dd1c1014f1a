"""Results of encoders on data sets in tasks as one page, and as Markdown, LaTeX and CSV."""

from __future__ import annotations

from cxr_embed.reporting.leaderboard.records import COLUMNS
from cxr_embed.reporting.leaderboard.write import write_leaderboard

__all__ = ["COLUMNS", "write_leaderboard"]
