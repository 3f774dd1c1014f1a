"""Scores of any origin compared with labels: figures with intervals by patient, thresholds, groups, comparisons."""

from __future__ import annotations

from cxr_embed.evaluation.comparison import Comparison, Difference, FindingDifference, compare
from cxr_embed.evaluation.evaluate import evaluate
from cxr_embed.evaluation.measure import FIGURES
from cxr_embed.evaluation.result import Evaluation, FindingResult, GroupResult
from cxr_embed.evaluation.scored import LabelSource, ScoredCases
from cxr_embed.evaluation.scores import ScoresError, ScoreSource, read_scores

__all__ = [
    "FIGURES",
    "Comparison",
    "Difference",
    "Evaluation",
    "FindingDifference",
    "FindingResult",
    "GroupResult",
    "LabelSource",
    "ScoreSource",
    "ScoredCases",
    "ScoresError",
    "compare",
    "evaluate",
    "read_scores",
]
