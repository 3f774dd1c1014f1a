"""A finding's cases by their scores, and what a threshold does to them: what the Screen page and its JSON show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cxr_embed.cases import match_names, own_patients
from cxr_embed.evaluation import ScoresError
from cxr_embed.evaluation.diagnostics import FEW
from cxr_embed.evaluation.measure import Sample, compact, measure, measure_flags, seed_of
from cxr_embed.evaluation.thresholds import ThresholdRule
from cxr_embed.metrics import (
    Estimate,
    OperatingPoint,
    auroc,
    operating_point,
    per_thousand,
    per_thousand_spread,
    thresholds_by_flags,
)
from cxr_embed.reporting.curves import roc_of
from cxr_embed.types import counted
from cxr_embed.web.lru import Recent
from cxr_embed.web.scores import Scored
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation

Verdict = Literal["missed", "false alarm", "found", "passed", "flagged", "not flagged"]
Only = Literal["", "missed", "false alarm", "flagged", "not flagged"]
KEPT = "kept"  # a word for the threshold that the probe keeps
UNLABELLED = "flag-rate=0.1"  # the rule at first, where there is nothing better
_BOOTSTRAPS, _SEED = 1000, 0
_KEPT_BYTES = 64 << 20  # of findings that were looked at last


@dataclass(frozen=True, kw_only=True)
class Screened:
    """A finding's cases that pass the filters and have a score, the highest first.

    Attributes:
        score: which one.
        column: the index's labels of the finding; None for none.
        rows: `(M,)` of the index.
        scores: `(M,)` float64.
        labels: `(M,)` float64 of 1, 0 and NaN.
        learned: `(M,)` bool, of patients that the probe learned from: listed, and not counted.
        patients: `(M,)` patients, one of its own for a case whose patient nobody knows.
        clustered: whether any patient is known.
        unscored: cases that pass the filters and have no score.
        kept: the threshold that the probe keeps for the finding; None for none.
        chosen_on: tested patients whom that threshold was chosen on.
    """

    score: Scored
    column: str | None
    rows: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    learned: np.ndarray
    patients: np.ndarray
    clustered: bool
    unscored: int
    kept: float | None
    chosen_on: int
    _auroc: list[Estimate] = field(default_factory=list, repr=False)

    @cached_property
    def tested(self) -> np.ndarray:
        """`(M,)` bool: the cases that figures are of."""
        return np.asarray(~np.isnan(self.labels) & ~self.learned)

    @cached_property
    def positive(self) -> np.ndarray:
        """Of the tested: whether they have the finding."""
        return np.asarray(self.labels[self.tested] == 1)

    @cached_property
    def tested_scores(self) -> np.ndarray:
        """Of the tested: their scores."""
        return np.asarray(self.scores[self.tested])

    @property
    def own_prevalence(self) -> float | None:
        """The tested cases' part with the finding."""
        return float(self.positive.mean()) if len(self.positive) else None

    @cached_property
    def _owners(self) -> tuple[np.ndarray, int]:
        return compact(self.patients[self.tested])

    @cached_property
    def _ranked(self) -> Sample:
        return self._sample(None, None)

    @cached_property
    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds of a slider and their flags, see `thresholds_by_flags`; each as short as it can be written."""
        thresholds, flagged = thresholds_by_flags(self.scores)
        return np.array([self._short(each) for each in thresholds.tolist()]), flagged

    def _short(self, threshold: float) -> float:
        """A number of few digits that parts the same scores, so that an address can be read."""
        rising = self.scores[::-1]
        place = int(np.searchsorted(rising, threshold))
        below = rising[place - 1] if place else -np.inf
        above = rising[place] if place < len(rising) else np.inf
        for digits in range(2, 17):
            short = float(f"{threshold:.{digits}g}")
            if below < short <= above:
                return short
        return threshold

    def resolve(self, text: str) -> tuple[float, str]:
        """A threshold in words as a number, and how it came about.

        Args:
            text: a number; `kept`; `youden`, `f1`, `sensitivity=0.9`, `specificity=0.9` or `flag-rate=0.1`, chosen on
                these very cases; blank for what the page begins with: the probe's own, else a flag rate of 0.1.

        Raises:
            ScoresError: for other words, or a rule that needs labels where there are none.
        """
        text = text.strip() or (KEPT if self.kept is not None else UNLABELLED)
        if text == KEPT:
            if self.kept is None:
                raise ScoresError(f"`threshold` {KEPT}: the probe keeps none for {self.score.finding}")
            return self.kept, "kept in the probe"
        rule = ThresholdRule.parse(text)
        if rule.kind in ("stated", "flag rate"):
            found = rule.find(self.labels, self.scores)
        elif not len(self.positive):
            raise ScoresError(f"`threshold` {text} needs labels, and no case that counts here has one")
        else:
            found = rule.find(self.labels[self.tested], self.tested_scores)
        if found is None and not len(self.scores):
            raise ScoresError("no case that passes the condition has a score")
        if found is None:
            raise ScoresError(f"`threshold` {text}: none can be chosen on these cases")
        if rule.kind == "stated":
            return found, ""
        return self._short(found), f"{rule.words}, chosen on these very cases"

    def point(self, threshold: float, prevalence: float | None = None) -> dict[str, Any]:
        """What a threshold does, without intervals, as JSON values.

        Args:
            threshold: scores from here on are flagged.
            prevalence: stated; the labels' own by default.
        """
        flagged = len(self.scores) - int(np.searchsorted(self.scores[::-1], threshold))
        point = OperatingPoint(threshold, flagged / max(1, len(self.scores)))
        flags, missed = 1000 * point.flag_rate if len(self.scores) else None, None
        hits = alarms = None
        if len(self.positive):
            point = operating_point(self.positive, self.tested_scores, threshold)
            ill = int(self.positive.sum())
            hits = round((point.sensitivity or 0) * ill)
            alarms = round(point.flag_rate * len(self.positive)) - hits
            part = prevalence if prevalence is not None else self.own_prevalence
            flags = None
            if point.sensitivity is not None and point.specificity is not None and part is not None:
                flags, missed = per_thousand(point.sensitivity, point.specificity, part)
        return {
            "threshold": threshold,
            "flagged": flagged,
            "cases": len(self.scores),
            "sensitivity": point.sensitivity,
            "specificity": point.specificity,
            "hits": hits,
            "alarms": alarms,
            "flags_per_1000": flags,
            "missed_per_1000": missed,
        }

    def intervals(self, threshold: float, prevalence: float | None = None) -> dict[str, Estimate]:
        """Figures at a threshold with their intervals by patient; those per 1,000 at a stated prevalence alone."""
        found = measure_flags(self._sample(threshold, prevalence), _BOOTSTRAPS, self._seed)
        if prevalence is None:
            return {name: found[name] for name in ("sensitivity", "specificity")}
        flags, missed = per_thousand_spread(found["sensitivity"], found["specificity"], prevalence)
        return {**found, "flags_per_1000": flags, "missed_per_1000": missed}

    def auroc(self) -> Estimate:
        """With its interval, which takes seconds of many cases; it is made once."""
        if not self._auroc:
            found = Estimate(None, reason=auroc(self.positive, self.tested_scores).reason)
            if not found.reason:
                found = measure(self._ranked, _BOOTSTRAPS, self._seed)[0]["auroc"]
            self._auroc.append(found)
        return self._auroc[0]

    @cached_property
    def roc(self) -> list[list[float]]:
        """Pairs of false and true positive rate; none without both classes."""
        return roc_of(self.positive, self.tested_scores) if self._ranked.both else []

    def verdicts(self, threshold: float) -> np.ndarray:
        """`(M,)` words: `missed` and `false alarm` for what is wrong, `found` and `passed` for what is right.

        `flagged` and `not flagged` of cases that do not count.
        """
        flagged, ill = self.scores >= threshold, self.labels == 1
        known = np.where(ill, np.where(flagged, "found", "missed"), np.where(flagged, "false alarm", "passed"))
        return np.where(self.tested, known, np.where(flagged, "flagged", "not flagged"))

    def ordered(self, threshold: float, wrong_first: bool, only: Only) -> tuple[np.ndarray, np.ndarray]:
        """`(K,)` places in `rows` as they are listed, and their `(K,)` verdicts.

        Highest score first; with `wrong_first`, the missed before all others, the lowest score first of them, then the
        false alarms.
        """
        verdicts = self.verdicts(threshold)
        places = np.arange(len(self.rows))
        if only in ("missed", "false alarm"):
            places = places[verdicts == only]
        elif only:
            places = places[(self.scores >= threshold) == (only == "flagged")]
        if only == "missed":
            places = places[::-1]
        elif wrong_first:
            of = verdicts[places]
            missed, alarms = of == "missed", of == "false alarm"
            places = np.concatenate([places[missed][::-1], places[alarms], places[~missed & ~alarms]])
        return places, verdicts[places]

    def notes(self, prevalence: float | None) -> list[str]:
        """What limits the figures, in sentences."""
        finding, made = self.score.finding, []
        if self.unscored:
            made.append(f"{counted(self.unscored, 'case has', 'cases have')} no score: the store has no vector of it")
        if not len(self.positive):
            why = "the index has no labels of it" if self.column is None else "no case that counts here has a label"
            made.append(f"{finding}: {why}, so there is neither a sensitivity nor a specificity")
        elif self.column not in (None, finding):
            made.append(f"the labels are those of {self.column}")
        left_out = int(np.count_nonzero(self.learned))
        if left_out:
            made.append(
                f"{counted(left_out, 'case is of a patient', 'cases are of patients')} that the probe learned from: "
                "listed, and left out of all figures"
            )
        if self.chosen_on:
            whom = counted(self.chosen_on, "patient is", "patients are")
            made.append(f"{whom} among those that the probe's threshold was chosen on: it flatters here")
        positives = int(self.positive.sum())
        if len(self.positive) and 0 < positives < FEW:
            made.append(f"{positives} with the finding: fewer than {FEW} are too few to judge by")
        if len(self.positive) and not self.clustered:
            made.append("nobody knows the patients: every case counts as one, and intervals are too narrow")
        if positives and prevalence is None:
            made.append(
                "counts per 1,000 are at the labels' own prevalence: where cases were chosen for their findings, state "
                "that of the place where the threshold is to be used"
            )
        return made

    @property
    def _seed(self) -> tuple[int, ...]:
        return seed_of(_SEED, self.score.finding)

    def _sample(self, threshold: float | None, prevalence: float | None) -> Sample:
        numbers, count = self._owners
        return Sample(
            positive=self.positive,
            scores=self.tested_scores,
            patients=numbers,
            count=count,
            threshold=threshold,
            prevalence=prevalence,
        )


class Screens:
    """The findings that were looked at last.

    Args:
        site: whose.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._kept: Recent[Screened] = Recent(_KEPT_BYTES, lambda made: 64 * len(made.rows) + made.patients.nbytes)

    def of(self, now: Generation, score: Scored, where: str | None) -> Screened:
        """A finding's cases that pass a condition.

        Raises:
            ScoresError, StoreError, ProbeError: as `Scores.of` does.
            CaseIndexError: for a condition that is none.
        """
        key = (now.name, score, where)
        made = self._kept.get(key)
        if made is None:
            made = self._make(now, score, where)
            self._kept.put(key, made)
        return made

    def _make(self, now: Generation, score: Scored, where: str | None) -> Screened:
        index, scores = now.index, self._site.scores.of(now, score.by, score.finding)
        passing = index.passing(where, None)
        passing = np.ones(len(index), bool) if passing is None else passing
        rows = np.flatnonzero(passing & ~np.isnan(scores))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        column = match_names([score.finding], now.columns.findings, "scores")[0]
        labels = np.full(len(rows), np.nan)
        if column is not None:
            values = index.table[column].combine_chunks().cast("float64").fill_null(float("nan"))
            labels = values.to_numpy(zero_copy_only=False)[rows]
        owners = index.patient_ids[rows]
        learned, kept, chosen_on = np.zeros(len(rows), bool), None, 0
        probe = self._site.state.probe
        if score.by == "probe" and probe is not None:
            learned = self._site.scores.learned_from(now)[rows]
            kept = probe.thresholds.get(score.finding)
            counts = ~np.isnan(labels) & ~learned
            chosen_on = len(np.intersect1d(owners[counts], probe.chosen_on)) if kept is not None else 0
        return Screened(
            score=score,
            column=column,
            rows=rows,
            scores=scores[rows].astype(np.float64),
            labels=labels,
            learned=learned,
            patients=own_patients(index.ids[rows], owners),
            clustered=bool((owners != "").any()),
            unscored=int(np.count_nonzero(passing & np.isnan(scores))),
            kept=kept,
            chosen_on=chosen_on,
        )


def score_of(offered: Sequence[Scored], by: str, finding: str) -> Scored:
    """Whose scores are wanted: the first of those that fit what is named, or of all.

    Raises:
        ScoresError: where none fits.
    """
    for each in offered:
        if by in ("", each.by) and finding in ("", each.finding):
            return each
    known = ", ".join(f"{each.finding} by {each.by}" for each in offered) or "none"
    raise ScoresError(f"no scores of {finding or 'any finding'}{f' by {by}' if by else ''}; there are {known}")
