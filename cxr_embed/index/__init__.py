"""Find similar prior cases: an index of stored vectors that never disagrees with its table."""

from cxr_embed.index.search import CaseIndex, Query, Rules

__all__ = ["CaseIndex", "Query", "Rules"]
