"""Intervals by patient: speed against a loop over scikit-learn's `roc_auc_score`, and how often they hold the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import ROOT, Line, in_turn, median, real_data, seconds
from sklearn.metrics import roc_auc_score

from cxr_embed.evaluation import evaluate as evaluate_scores
from cxr_embed.evaluation.measure import compact
from cxr_embed.evaluation.scored import ScoredCases, join_scores
from cxr_embed.evaluation.scores import read_scores
from cxr_embed.metrics import Ranking, draws, strata_of

DRAWS, SLICE, SETS = 1000, 5, 1000


def ours(cases: ScoredCases, count: int) -> list[np.ndarray]:
    """AUROCs of every finding in `count` draws of patients."""
    patients, total = compact(cases.patients)
    found = []
    for number in range(len(cases.names)):
        positive, scores = cases.labels[:, number] == 1, cases.scores[:, number]
        strata = strata_of(positive, np.ones(len(cases), bool), patients)
        ranking = Ranking(positive, scores, patients, total)
        found.append(
            np.concatenate([ranking.aurocs(weights) for weights in draws(strata, count, number, ranking.steps)])
        )
    return found


def loop(cases: ScoredCases, count: int) -> list[list[float]]:
    """The same by drawing patients, taking their rows, and scikit-learn."""
    patients, total = compact(cases.patients)
    rows = [np.flatnonzero(patients == patient) for patient in range(total)]
    found = []
    for number in range(len(cases.names)):
        positive, scores = cases.labels[:, number] == 1, cases.scores[:, number]
        strata = strata_of(positive, np.ones(len(cases), bool), patients)
        rng, values = np.random.default_rng(number), []
        for _ in range(count):
            drawn = [rng.choice(np.flatnonzero(strata == stratum), (strata == stratum).sum()) for stratum in (0, 1)]
            taken = np.concatenate([rows[patient] for patient in np.concatenate(drawn)])
            values.append(roc_auc_score(positive[taken], scores[taken]))
        found.append(values)
    return found


def run(work: Path) -> list[Line]:
    """Both on the published scores of 22,433 images, the whole verb, and coverage."""
    del work
    folder = real_data() / "peer-tables"
    files = folder / "chexnet-scores.csv.gz", folder / "nih-labels.csv.gz"
    cases = join_scores(read_scores(files[0]), files[1])
    figures = in_turn(
        3,
        ours=lambda: seconds(lambda: ours(cases, DRAWS)),
        loop=lambda: seconds(lambda: loop(cases, SLICE)) / SLICE * DRAWS,
        whole=lambda: seconds(lambda: evaluate_scores(*files)),
    )
    fast, slow, whole = (median(figures[name]) for name in ("ours", "loop", "whole"))
    task = f"{DRAWS:,} draws by patient, {len(cases.names)} findings, {len(cases):,} cases"
    return [
        Line(f"{task}: AUROC", "under 5 s", f"{fast:.1f} s"),
        Line(
            f"the same against a loop over `roc_auc_score` ({SLICE} draws timed)",
            "50x",
            f"{slow / fast:,.0f}x ({slow:,.0f} s)",
        ),
        Line("`cxr-embed evaluate` on the files: four figures and their mean", "-", f"{whole:.1f} s"),
        *covered(),
    ]


def covered() -> list[Line]:
    """How often 95% intervals hold the truth of simulated data sets, and no difference between equal scores."""
    sys.path.append(str(ROOT / "tests"))
    from clustered import SETTINGS, Setting, coverage, difference_coverage

    lines = []
    for setting in (*SETTINGS, Setting(800, 1.0, 0.10, 1.2, 0.5)):
        found = coverage(setting, SETS, 400)
        held, rejected = difference_coverage(setting, SETS, 400)
        made = "DeLong" if setting.images == 1 else "bootstrap by patient"
        what = (
            f"95% intervals of {SETS:,} simulated sets, {setting.patients} patients x {setting.images:g} images, "
            f"{setting.prevalence:.0%} positive, AUROC {setting.auroc:.2f} ({made})"
        )
        told = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        lines.append(
            Line(what, "93 to 97%", f"{told}; difference of two AUROCs {held:.1%} (p under 0.05: {rejected:.1%})")
        )
    return lines
