"""Figures that say how well scores tell images with a finding from those without, their intervals, thresholds.

Arrays in, numbers out. Labels are 1 and 0 and known; who has unknown ones leaves them out first.
"""

from __future__ import annotations

from cxr_embed.choices import CalibrationKind
from cxr_embed.metrics.calibration import CALIBRATIONS, Calibrator, ReliabilityBin, calibrate, reliability
from cxr_embed.metrics.delong import delong, delong_difference, delong_interval, holm, p_value
from cxr_embed.metrics.figures import (
    Figure,
    OperatingPoint,
    auroc,
    operating_point,
    per_thousand,
    per_thousand_spread,
    rank_agreement,
)
from cxr_embed.metrics.intervals import (
    NO_SPREAD,
    Estimate,
    between,
    carried,
    draws,
    error_from_draws,
    fewest_positive,
    from_draws,
    is_end,
    mixed,
    rarest_strata,
    spread_of,
    strata_of,
)
from cxr_embed.metrics.thresholds import (
    threshold_by_f1,
    threshold_by_youden,
    threshold_for_flag_rate,
    threshold_for_sensitivity,
    threshold_for_specificity,
    thresholds_by_flags,
)
from cxr_embed.metrics.weighted import BINS, Calibration, Flags, Ranking, net_benefit, npv, ppv

__all__ = [
    "BINS",
    "CALIBRATIONS",
    "NO_SPREAD",
    "Calibration",
    "CalibrationKind",
    "Calibrator",
    "Estimate",
    "Figure",
    "Flags",
    "OperatingPoint",
    "Ranking",
    "ReliabilityBin",
    "auroc",
    "between",
    "calibrate",
    "carried",
    "delong",
    "delong_difference",
    "delong_interval",
    "draws",
    "error_from_draws",
    "fewest_positive",
    "from_draws",
    "holm",
    "is_end",
    "mixed",
    "net_benefit",
    "npv",
    "operating_point",
    "p_value",
    "per_thousand",
    "per_thousand_spread",
    "ppv",
    "rank_agreement",
    "rarest_strata",
    "reliability",
    "spread_of",
    "strata_of",
    "threshold_by_f1",
    "threshold_by_youden",
    "threshold_for_flag_rate",
    "threshold_for_sensitivity",
    "threshold_for_specificity",
    "thresholds_by_flags",
]
