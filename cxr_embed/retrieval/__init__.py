"""Is an index any good? Its neighbours against labels, patients and views, chance, and other indexes."""

from __future__ import annotations

from cxr_embed.retrieval.evaluating import evaluate_retrieval
from cxr_embed.retrieval.result import FindingRetrieval, IndexRetrieval, RetrievalReport

__all__ = ["FindingRetrieval", "IndexRetrieval", "RetrievalReport", "evaluate_retrieval"]
