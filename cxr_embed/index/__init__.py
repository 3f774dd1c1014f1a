"""Find similar prior cases: an index of stored vectors that never disagrees with its table."""

from cxr_embed.index.faiss.search import CaseIndex
from cxr_embed.index.query import Query, Rules

__all__ = ["CaseIndex", "Query", "Rules"]
