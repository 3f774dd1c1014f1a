"""Cases that a page shows with their heat maps: which ones, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.evaluation import ScoredCases
from cxr_embed.present.numbers import format_threshold
from cxr_embed.reporting.inputs import ReportError
from cxr_embed.types import counted

TRUE, FALSE, MISSED = KINDS = ("true positives", "false positives", "false negatives")
MOST = 400  # pictures on a page: some 15 MB
PICTURES = ("mixed", "plain")  # of an example, as data URIs: the page has them, the JSON beside it has not


@dataclass(frozen=True)
class Example:
    """A case to show: its finding, what it is at the threshold (of `KINDS`), its image and its score."""

    finding: str
    kind: str
    image_id: str
    score: float


@dataclass(frozen=True)
class Explain:
    """How cases are explained.

    Attributes:
        most: cases of a kind and a finding.
        findings: that the probe has.
        thresholds: of the probe's own, for findings that the evaluation has none for.
        draw: cases to what is said of each, as JSON values (`PICTURES` among them), and how the maps are made.
    """

    most: int
    findings: Sequence[str]
    thresholds: Mapping[str, float]
    draw: Callable[[Sequence[Example]], tuple[list[dict[str, Any]], dict[str, Any]]]


def explained(cases: ScoredCases, findings: Sequence[Mapping[str, Any]], how: Explain) -> dict[str, Any]:
    """Chooses cases of each finding and explains them, as plain JSON values.

    Of true and false positives those with the highest scores, of false negatives those with the lowest; one image a
    patient.

    Args:
        cases: that were evaluated.
        findings: what the evaluation says of each finding, with its `threshold`.
        how: they are explained.

    Raises:
        ReportError: where no finding has a threshold, or there would be more than `MOST` pictures.
    """
    groups, notes, chosen = [], [], []
    for record in findings:
        name = record["finding"]
        if name not in how.findings:
            notes.append(f"{name}: the probe has no such finding")
            continue
        threshold = record["threshold"] if record["threshold"] is not None else how.thresholds.get(name)
        if threshold is None:
            notes.append(f"{name}: no threshold, so neither true nor false positives")
            continue
        for kind, rows in _kinds(cases, cases.names.index(name), threshold).items():
            column = cases.scores[:, cases.names.index(name)]
            examples = [
                Example(name, kind, str(cases.ids[row]), float(column[row]))
                for row in _of_patients(rows, cases.patients)[: how.most]
            ]
            groups.append({"finding": name, "kind": kind, "cases": len(rows), "threshold": threshold})
            chosen.append(examples)
    pictures = sum(map(len, chosen))
    if not groups:
        raise ReportError(f"`explain`: nothing to show; {'; '.join(notes)}")
    if pictures > MOST:
        raise ReportError(f"`explain` {how.most}: {pictures:,} pictures, at most {MOST} fit on a page; take fewer")
    made, about = how.draw([example for examples in chosen for example in examples])
    said = iter(made)
    for group, examples in zip(groups, chosen, strict=True):
        group["examples"] = [
            {"image_id": example.image_id, "score": example.score, **next(said)} for example in examples
        ]
    return {**about, "most": how.most, "groups": groups, "notes": [*notes, *about["notes"]]}


def _kinds(cases: ScoredCases, column: int, threshold: float) -> dict[str, np.ndarray]:
    """The rows of each kind, those that are shown first first."""
    scores, labels = cases.scores[:, column], cases.labels[:, column]
    flagged = scores >= threshold
    down, up = np.argsort(-scores, kind="stable"), np.argsort(scores, kind="stable")
    return {
        TRUE: down[((labels == 1) & flagged)[down]],
        FALSE: down[((labels == 0) & flagged)[down]],
        MISSED: up[((labels == 1) & ~flagged)[up]],
    }


def _of_patients(rows: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """The first row of each patient."""
    return rows[np.sort(np.unique(patients[rows], return_index=True)[1])]


def without_pictures(report: dict[str, Any]) -> dict[str, Any]:
    """The report without its radiographs, for the JSON beside the page."""
    shown = report["explained"]
    if shown is None:
        return report
    groups = [
        {
            **group,
            "examples": [{k: value for k, value in case.items() if k not in PICTURES} for case in group["examples"]],
        }
        for group in shown["groups"]
    ]
    return {**report, "explained": {**shown, "groups": groups}}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of a page with its map, and what is said below it.

    Attributes:
        mixed, plain: data URIs of the map over the picture and of the picture alone; blank where there is none.
        why: there is none.
        alt: for those who can't see it.
        head: in bold below it.
        lines: below that.
    """

    mixed: str
    plain: str
    why: str
    alt: str
    head: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, with a title."""

    key: str
    title: str
    pictures: tuple[Shown, ...]


def galleries(shown: Mapping[str, Any]) -> list[Gallery]:
    """The pictures of each finding and kind; of each finding where there is one a kind."""
    found: list[Gallery] = []
    for number, group in enumerate(shown["groups"]):
        alone = shown["most"] == 1
        pictures = tuple(_shown(group, case, alone) for case in group["examples"])
        of_all = f"{len(pictures):,} of {group['cases']:,}" if group["cases"] else "none"
        title = f"{group['finding']}: {group['kind']} at {format_threshold(group['threshold'])}, {of_all}"
        if not alone:
            found.append(Gallery(f"maps-{number}", title, pictures))
        elif group["kind"] == KINDS[0]:
            at = f"{group['finding']} at {format_threshold(group['threshold'])}"
            found.append(Gallery(f"maps-{number}", at, pictures))
        else:
            found[-1] = Gallery(found[-1].key, found[-1].title, (*found[-1].pictures, *pictures))
    return [gallery for gallery in found if gallery.pictures or shown["most"] > 1]


def _shown(group: Mapping[str, Any], case: Mapping[str, Any], kind_too: bool) -> Shown:
    one = group["kind"].removesuffix("s")
    head = f"{one}, score {case['score']:.3f}" if kind_too else f"score {case['score']:.3f}"
    lines = (f"image {case['image_id']}", case["line"], case["differs"], case["below"])
    return Shown(
        mixed=case.get("mixed", ""),
        plain=case.get("plain", ""),
        why=case["why"],
        alt=f"heat map of {group['finding']} over a radiograph, {one}",
        head=head,
        lines=tuple(line for line in lines if line),
    )


def about_pictures(shown: Mapping[str, Any]) -> tuple[str, ...]:
    """The paragraphs before the pictures."""
    most = counted(shown["most"], "case")
    return (
        f"Cases of {shown['scores']}, explained with the probe {shown['probe']}: true and false positives with the "
        f"highest scores, false negatives with the lowest, at most {most} each, one image a patient. They are "
        "extremes, not typical cases.",
        "In colour: what speaks for the finding, from 0 to each map's own highest value; outlined: what is above half "
        "of it. Below each stand the log odds, those without the "
        "outlined region, and those with as much hidden elsewhere. A map says what moved this encoder and this probe, "
        "not that a finding is there.",
        *([shown["stand_in"]] if shown["stand_in"] else []),
        "This page holds radiographs: hand it on only to those who may see them. " + shown["note"],
    )
