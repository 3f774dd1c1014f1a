"""An evaluation of indexes for people: tables as text cells. Each fits into 80 columns."""

from __future__ import annotations

from cxr_embed.metrics import Estimate
from cxr_embed.present.numbers import PLAIN
from cxr_embed.present.tables import Table
from cxr_embed.retrieval.result import Figures, IndexDifference, IndexRetrieval, RetrievalReport


def finding_table(index: IndexRetrieval, place: int) -> Table:
    """Precision and nDCG by finding at one of the ks, beside chance."""
    k = index.mean.precision[place].k
    rows = [[f.name, f"{f.figures.queries:,}", *_beside_chance(f.figures, place)] for f in index.findings]
    mean = f"mean of {index.covered['']} of {len(index.findings)}"
    rows.append([mean, f"{index.mean.queries:,}", *_beside_chance(index.mean, place)])
    return Table(heads=["finding", "n", "base", f"P@{k} (95%)", "lift", f"nDCG@{k} (95%)"], rows=rows)


def vote_table(index: IndexRetrieval, k: int) -> Table:
    """AUROC of the neighbours' votes by finding."""
    rows = [[f.name, f"{f.voters:,}", f"{f.voter_positives:,}", PLAIN.estimate(f.vote)] for f in index.findings]
    rows.append([f"mean of {index.votes_covered} of {len(index.findings)}", "", "", PLAIN.estimate(index.mean_vote)])
    return Table(heads=["finding", "n", "positive", f"AUROC of {k} votes (95%)"], rows=rows)


def view_table(index: IndexRetrieval, place: int) -> Table:
    """The means over findings for the queries of each view."""
    k = index.mean.precision[place].k
    rows = []
    for view, figures in index.by_view.items():
        base, *others = _beside_chance(figures, place)
        rows.append([view, f"{figures.queries:,}", base, PLAIN.number(figures.in_view), *others])
    return Table(heads=["view", "n", "base", "in view", f"P@{k} (95%)", "lift", f"nDCG@{k} (95%)"], rows=rows)


def other_table(index: IndexRetrieval) -> Table:
    """Recall of the same patient, and the part of neighbours of the same view."""
    rows = [
        [
            f"{what}@{at.k}",
            f"{recall.queries:,}",
            f"{recall.patients:,}",
            PLAIN.number(at.chance),
            PLAIN.estimate(at.figure),
        ]
        for what, recall in (("same patient, recall", index.same_patient), ("same view, precision", index.same_view))
        for at in recall.at
    ]
    return Table(heads=["", "n", "patients", "base", "(95%)"], rows=rows)


def difference_table(report: RetrievalReport, difference: IndexDifference) -> Table:
    """One index minus the floor at the largest k; the rest is in the JSON."""
    k = report.ks[-1]
    votes: dict[str, Estimate] = {}
    mean_votes = Estimate(None)
    if difference.votes is not None:
        votes = {finding.name: finding.auroc.difference for finding in difference.votes.findings}
        mean_votes = difference.votes.mean_auroc.difference
    rows = [[name, apart(difference.precision[name][-1]), apart(votes.get(name))] for name in difference.precision]
    rows.append(["mean", apart(difference.mean_precision[-1]), apart(mean_votes)])
    return Table(heads=["finding", f"P@{k} difference (95%)", f"AUROC of {k} votes (95%)"], rows=rows)


def apart(figure: Estimate | None) -> str:
    """A difference with its interval: `0.012 (-0.004 to 0.019)`."""
    return PLAIN.estimate(figure or Estimate(None), between=" to ")


def _beside_chance(figures: Figures, place: int) -> list[str]:
    precision, ndcg = figures.precision[place], figures.ndcg[place]
    lift = PLAIN.number(precision.lift, 1)
    return [PLAIN.number(precision.chance), PLAIN.estimate(precision.figure), lift, PLAIN.estimate(ndcg.figure)]
