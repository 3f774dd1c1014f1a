"""Thresholds and calibrations, chosen on a validation part that shares no image and no patient with the test cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np

from cxr_embed.choices import CalibrationKind
from cxr_embed.evaluation.diagnostics import FEW
from cxr_embed.evaluation.scored import ScoredCases
from cxr_embed.evaluation.scores import ScoresError
from cxr_embed.metrics import (
    CALIBRATIONS,
    Calibrator,
    auroc,
    calibrate,
    threshold_by_f1,
    threshold_by_youden,
    threshold_for_flag_rate,
    threshold_for_sensitivity,
    threshold_for_specificity,
)

RULES = "youden, f1, sensitivity=0.9, specificity=0.9, flag-rate=0.1, or a number"
Rule = str | float | Mapping[str, float]
RuleKind = Literal["youden", "f1", "sensitivity", "specificity", "flag rate", "stated"]


@dataclass(frozen=True)
class ThresholdRule:
    """What a threshold is chosen for.

    Attributes:
        kind: `youden` (largest sensitivity + specificity), `f1` (largest F1), `sensitivity` or `specificity` (of at
            least `target`), `flag rate` (at most that part of images flagged), `stated` (`target` is the threshold).
        target: of the kinds that have one.
    """

    kind: RuleKind
    target: float = 0.0

    @classmethod
    def parse(cls, text: str | float) -> ThresholdRule:
        """`youden`, `f1`, `sensitivity=0.9`, `specificity=0.9`, `flag-rate=0.1`, or a number.

        Raises:
            ScoresError: for anything else.
        """
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = None
        if number is not None and np.isfinite(number):
            return cls("stated", number)
        word, equals, part = str(text).partition("=")
        if word in ("youden", "f1") and not equals:
            return cls(word)  # type: ignore[arg-type]
        if word in ("sensitivity", "specificity", "flag-rate"):
            try:
                target = float(part)
            except ValueError:
                target = 0.0
            if 0 < target <= 1:
                return cls("flag rate" if word == "flag-rate" else word, target)  # type: ignore[arg-type]
        raise ScoresError(f"`threshold` is {RULES}, not {text!r}")

    @property
    def words(self) -> str:
        """The rule in words: `sensitivity of at least 0.9`."""
        return {
            "youden": "Youden's index",
            "f1": "largest F1",
            "sensitivity": f"sensitivity of at least {self.target:g}",
            "specificity": f"specificity of at least {self.target:g}",
            "flag rate": f"at most {100 * self.target:g}% of images flagged",
            "stated": f"{self.target:g}, stated",
        }[self.kind]

    def find(self, labels: np.ndarray, scores: np.ndarray) -> float | None:
        """The threshold by `(N,)` labels of 1 and 0 and their scores; None where none can be chosen."""
        if self.kind == "stated":
            return self.target
        if self.kind == "flag rate":
            return threshold_for_flag_rate(scores, self.target) if len(scores) else None
        if self.kind == "sensitivity":
            return threshold_for_sensitivity(labels, scores, self.target)
        if self.kind == "specificity":
            return threshold_for_specificity(labels, scores, self.target)
        return (threshold_by_youden if self.kind == "youden" else threshold_by_f1)(labels, scores)


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
        rule: as `ThresholdRule.parse` takes it, or a number by finding. None is `youden` where there is a validation
            part.
        validation: cases to choose on.
        calibration: `platt` or `isotonic`.

    Raises:
        ScoresError: for an unknown rule, or one that needs a validation part where there is none.
    """
    if calibration is not None and calibration not in CALIBRATIONS:
        raise ScoresError(f"`calibrate` is {' or '.join(CALIBRATIONS)}, not {calibration!r}")
    chosen_by, stated = _parsed(rule)
    if validation is None:
        for option, given in (("threshold", rule if stated is None else None), ("calibrate", calibration)):
            if given is not None:
                raise ScoresError(
                    f"`{option}` {given} is chosen on cases that are not tested: name them with `thresholds_from` or "
                    "`thresholds_split`"
                )
        return {name: _stated(Choice(), name, stated) for name in names}, []
    choices: dict[str, Choice] = {}
    few = []
    for name in names:
        choice, positives = _on(validation, name, chosen_by, calibration)
        if 0 < positives < FEW:
            few.append(f"{name} ({positives})")
        if calibration is not None and choice.calibrator is None:
            choice = replace(choice, uncalibrated=choice.reason)
        choices[name] = _stated(choice, name, stated)
    notes = [f"thresholds rest on fewer than {FEW} positives of the validation part: {', '.join(few)}"] if few else []
    for what, lacking in (
        ("no threshold", {name: choice.reason for name, choice in choices.items()}),
        ("no probabilities", {name: choice.uncalibrated for name, choice in choices.items()}),
    ):
        named = [f"{name} ({reason})" for name, reason in lacking.items() if reason]
        notes += [f"{what}: {'; '.join(named)}"] if named else []
    return choices, notes


def _stated(choice: Choice, name: str, stated: float | Mapping[str, float] | None) -> Choice:
    """The choice with the threshold that is stated for this finding, if one is."""
    known = stated.get(name) if isinstance(stated, Mapping) else stated
    return choice if known is None else replace(choice, threshold=float(known), rule="stated, not chosen", reason="")


def _parsed(rule: Rule | None) -> tuple[ThresholdRule, float | Mapping[str, float] | None]:
    """The rule by which thresholds are chosen, and those that are stated instead, for all findings or by finding."""
    by_default = ThresholdRule("youden")
    if rule is None:
        return by_default, None
    if isinstance(rule, Mapping):
        given: Mapping[str, Any] = rule
        odd = next(
            (name for name, value in given.items() if not (isinstance(value, Real) and np.isfinite(float(value)))), None
        )
        if odd is not None:
            raise ScoresError(f"`threshold` by finding is a number for each, not {odd}={rule[odd]!r}")
        return by_default, rule
    parsed = ThresholdRule.parse(rule)
    return (by_default, parsed.target) if parsed.kind == "stated" else (parsed, None)


def _on(
    validation: ScoredCases, name: str, rule: ThresholdRule, calibration: CalibrationKind | None
) -> tuple[Choice, int]:
    """The choice for a finding on the validation part, and that part's positives."""
    if name not in validation.names:
        return Choice(reason="the validation part does not have it"), 0
    column = validation.names.index(name)
    known = ~np.isnan(validation.labels[:, column])
    labels, scores = validation.labels[known, column], validation.scores[known, column]
    positives = int((labels == 1).sum())
    reason = auroc(labels, scores).reason
    if reason:
        return Choice(reason=f"in the validation part {reason}"), positives
    calibrator = calibrate(labels, scores, calibration) if calibration is not None else None
    return Choice(rule.find(labels, scores), f"{rule.words} in the validation part", "", calibrator), positives
