"""Find similar prior cases: an index of stored vectors that never disagrees with its table."""

from cxr_embed.index.asked import Query, Rules
from cxr_embed.index.search import CaseIndex

__all__ = ["CaseIndex", "Query", "Rules"]
