"""Thresholds and calibrations, chosen on a validation part that shares no image and no patient with the test cases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cxr_embed.evaluation.scored import ScoredCases
from cxr_embed.evaluation.scores import ScoresError
from cxr_embed.metrics import (
    CALIBRATIONS,
    CalibrationKind,
    Calibrator,
    auroc,
    calibrate,
    threshold_by_f1,
    threshold_by_youden,
    threshold_for_sensitivity,
    threshold_for_specificity,
)

RULES = "youden, f1, sensitivity=0.9, specificity=0.9, or a number"
Rule = str | float | Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """What was chosen for one finding.

    Attributes:
        threshold: scores from here on are flagged; None for none.
        rule: how it was chosen, in words; empty for none.
        reason: why there is none.
        calibrator: scores to probabilities; None for none.
        uncalibrated: why there is none, where one was asked for.
    """

    threshold: float | None = None
    rule: str = ""
    reason: str = "no threshold: choose it on other cases (`thresholds_from`, `thresholds_split`) or state it"
    calibrator: Calibrator | None = None
    uncalibrated: str = ""


def choose(
    names: tuple[str, ...], rule: Rule | None, validation: ScoredCases | None, calibration: CalibrationKind | None
) -> tuple[dict[str, Choice], list[str]]:
    """A choice for every finding, and what its reader should know.

    Args:
        names: the findings.
        rule: `youden`, `f1`, `sensitivity=0.9`, `specificity=0.9`, a number for all, or a number by finding. None is
            `youden` where there is a validation part.
        validation: cases to choose on.
        calibration: `platt` or `isotonic`.

    Raises:
        ScoresError: for an unknown rule, or one that needs a validation part where there is none.
    """
    if calibration is not None and calibration not in CALIBRATIONS:
        raise ScoresError(f"`calibrate` is {' or '.join(CALIBRATIONS)}, not {calibration!r}")
    stated = _stated(rule)
    word, target = _parsed(rule) if isinstance(rule, str) and stated is None else ("youden", 0.0)
    if validation is None:
        for option, given in (("`threshold`", rule is not None and stated is None), ("`calibrate`", calibration)):
            if given:
                raise ScoresError(
                    f"{option} {rule if option == '`threshold`' else calibration} is chosen on cases that are not "
                    "tested: name them with `thresholds_from` or `thresholds_split`"
                )
    choices: dict[str, Choice] = {}
    warnings, few = [], []
    for name in names:
        choice = Choice()
        if validation is not None:
            if name not in validation.names:
                choice = Choice(reason="the validation part does not have it")
            else:
                choice, positives = _on(validation, name, word, target, calibration)
                if 0 < positives < 10:
                    few.append(f"{name} ({positives})")
            if calibration is not None and choice.calibrator is None:
                choice = replace(choice, uncalibrated=choice.reason)
        if stated is not None:
            known = stated.get(name) if isinstance(stated, Mapping) else stated
            if known is not None:
                choice = replace(choice, threshold=float(known), rule="stated, not chosen", reason="")
        choices[name] = choice
    if few:
        warnings.append(f"thresholds rest on fewer than 10 positives of the validation part: {', '.join(few)}")
    if validation is not None:
        for what, lacking in (
            ("no threshold", {name: choice.reason for name, choice in choices.items()}),
            ("no probabilities", {name: choice.uncalibrated for name, choice in choices.items()}),
        ):
            told = [f"{name} ({reason})" for name, reason in lacking.items() if reason]
            if told:
                warnings.append(f"{what}: {'; '.join(told)}")
    return choices, warnings


def _stated(rule: Rule | None) -> float | Mapping[str, float] | None:
    if isinstance(rule, str):
        try:
            rule = float(rule)
        except ValueError:
            return None
    if isinstance(rule, float | int) and not np.isfinite(rule):
        raise ScoresError(f"`threshold` is {RULES}, not {rule}")
    return rule


def _parsed(rule: str) -> tuple[str, float]:
    if rule in ("youden", "f1"):
        return rule, 0.0
    match = re.fullmatch(r"(sensitivity|specificity)=([0-9.]+)", rule)
    try:
        target = float(match[2]) if match else 0.0
    except ValueError:
        target = 0.0
    if match is None or not 0 < target <= 1:
        raise ScoresError(f"`threshold` is {RULES}, not {rule!r}")
    return match[1], target


def _on(
    validation: ScoredCases, name: str, word: str, target: float, calibration: CalibrationKind | None
) -> tuple[Choice, int]:
    """The choice for a finding on the validation part, and that part's positives."""
    column = validation.names.index(name)
    known = ~np.isnan(validation.labels[:, column])
    labels, scores = validation.labels[known, column], validation.scores[known, column]
    positives = int((labels == 1).sum())
    reason = auroc(labels, scores).reason
    if reason:
        return Choice(reason=f"in the validation part {reason}"), positives
    threshold = {
        "youden": lambda: threshold_by_youden(labels, scores),
        "f1": lambda: threshold_by_f1(labels, scores),
        "sensitivity": lambda: threshold_for_sensitivity(labels, scores, target),
        "specificity": lambda: threshold_for_specificity(labels, scores, target),
    }[word]()
    rule = f"{word} of at least {target:g}" if target else {"youden": "Youden's index", "f1": "largest F1"}[word]
    calibrator = calibrate(labels, scores, calibration) if calibration is not None else None
    return Choice(threshold, f"{rule} in the validation part", "", calibrator), positives
