"""Does a score hang on what its heat map shows? Insertion and deletion: maps and pictures to figures, without marks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxr_embed.api.explain import cases_of, targets_of
from cxr_embed.api.inputs import Progress, StrPath, progress_or_bar
from cxr_embed.api.maps import folder_of, table_rows
from cxr_embed.api.probe import FindingsProbe, load_probe
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.cases.findings import chosen_findings
from cxr_embed.errors import MapError
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.curve_evaluating import CurveRun, evaluate_curves_of
from cxr_embed.explanation.curve_result import CurveEvaluation, CurveFigures
from cxr_embed.explanation.curves import CURVES, DELETION, INSERTION
from cxr_embed.explanation.making import Case
from cxr_embed.explanation.record import MapFolder, MapRecord
from cxr_embed.explanation.result import MAP
from cxr_embed.explanation.targets import Targets
from cxr_embed.manifest import Manifest
from cxr_embed.present.numbers import PLAIN
from cxr_embed.types import CxrImage, EncoderSpec, counted


class CurveEvaluationResult(CurveEvaluation, Tabular):
    """An evaluation by insertion and deletion that prints well and gives tables."""

    def __repr__(self) -> str:
        lines = []
        for part in self._parts():
            own = part.figures[MAP]
            others = ", ".join(
                f"{name} {PLAIN.number(values[INSERTION].value)} and {PLAIN.number(values[DELETION].value)}"
                for name, values in part.figures.items()
                if name != MAP
            )
            areas = f"insertion {PLAIN.estimate(own[INSERTION])}, deletion {PLAIN.estimate(own[DELETION])}"
            lines.append(f"{part.name}: {areas}; {others}")
        return self._as_text(lines)

    def to_arrow(self) -> pa.Table:
        """A row for each finding (`mean of findings` and `all pooled` last), map and curve.

        Columns: `finding`, `images`, `patients`, `map` (`map`, `centre`, `random`, `untrained`), `curve` (`deletion`,
        `insertion`), `area`, `low`, `high`, and how far the map is above this one: `map_minus`, `map_minus_low`,
        `map_minus_high`.
        """
        return pa.Table.from_pylist(table_rows(self._parts(), "curve", "area"))

    def by_image(self) -> pa.Table:
        """A row for each map: `image_id`, `patient_id`, `finding`, and its areas, `deletion` and `insertion`."""
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in self.images] for name in ("image_id", "patient_id", "finding")
        }
        columns |= {name: [each.areas[MAP][name] for each in self.images] for name in CURVES}
        return pa.table(columns)

    def _parts(self) -> list[CurveFigures]:
        return [*self.findings, self.mean, self.pooled]

    def _remarks(self) -> Sequence[str]:
        return self.notes


@checked_arguments
def evaluate_curves(
    maps: StrPath,
    images: Sequence[StrPath] = (),
    *,
    probe: FindingsProbe | StrPath | None = None,
    like: StrPath | None = None,
    manifest: Manifest | StrPath | None = None,
    root: StrPath | None = None,
    untrained: StrPath | None = None,
    findings: Sequence[str] | None = None,
    sample: int = 100,
    weights: StrPath | None = None,
    device: str = "auto",
    bootstraps: int = 1000,
    seed: int = 0,
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> CurveEvaluationResult:
    """Says whether a score hangs on what its heat map shows: insertion and deletion (Petsiuk et al., 2018).

    Deletion hides the picture's pixels from the map's highest value on, insertion shows them in a picture of which all
    is hidden; in 16 steps the encoder's score is taken. A good map has a small area under the first curve and a large
    one under the second. Both are means over images with 95% intervals by patient, beside orders of pixels that know
    nothing of the picture: from its centre outwards, random, and, where given, by the same encoder untrained.

    Args:
        maps: a folder that `explain` wrote.
        images: the pictures that it is of: files; with a `manifest`, image ids of it, all by default.
        probe: whose findings the maps explain, a probe or its folder.
        like: or the case that they are like; maps of prompts need neither.
        manifest: a table of the images, or its path.
        root: the folder of the images, if not the manifest's own.
        untrained: a folder of the same maps with the encoder's weights drawn at random, as `explain` makes them with
            `random_weights`.
        findings: that are looked at; all by default.
        sample: images that take part, drawn by the seed where there are more.
        weights, device: as `load_encoder` takes them.
        bootstraps: draws of patients for the intervals.
        seed: of the draws, the random orders and the choice of images.
        announce: called with a line on what it costs, before it begins.
        progress: called with a word, the pictures embedded and how many there are.

    Raises:
        MapError, CasesError, ProbeError, EncoderError, ManifestError: for what does not go together.
    """
    if sample < 1:
        raise MapError(f"`sample` is a number of images, not {sample}")
    folder = folder_of(Path(maps))
    beside = folder_of(Path(untrained), beside=True) if untrained is not None else None
    names = chosen_findings(findings or (), list(dict.fromkeys(e.finding for e in folder.maps)), str(folder.root))
    table, cases = cases_of(images, manifest, root)
    chosen, notes = _chosen(folder, names, cases, sample, seed)
    loaded, targets, _ = targets_of(
        table, **_explained(folder, names, probe, like), method="occlusion", weights=weights, device=device
    )
    try:
        _check_model(folder, loaded.spec, targets, names)

        def scores(pictures: Sequence[CxrImage]) -> np.ndarray:
            return targets.scores(targets.values(answers_of(loaded, pictures)[targets.output]))

        run = CurveRun(
            maps=folder,
            untrained=beside,
            records=chosen,
            names=targets.names,
            scores=scores,
            score="probability" if targets.unit == "log odds" else "cosine",
            bootstraps=bootstraps,
            seed=seed,
        )
        found = evaluate_curves_of(
            run,
            [case for case in cases if case.image_id in chosen],
            table.root,
            announce=announce or _unheard,
            progress=progress_or_bar(progress) or _unheard,
            notes=notes,
        )
    finally:
        loaded.close()
    return CurveEvaluationResult(**vars(found))


def _unheard(*words: object) -> None:
    del words


def _explained(
    folder: MapFolder, names: Sequence[str], probe: FindingsProbe | StrPath | None, like: StrPath | None
) -> dict[str, Any]:
    """What the maps explain, as `targets_of` takes it.

    Raises:
        MapError: where it is not named, or another kind is.
    """
    kind = folder.about.get("explained", "probe")
    given = {"probe": probe is not None, "like": like is not None}
    wanted = {"probe": kind == "probe", "like": kind == "like"}
    for name, needed in wanted.items():
        if needed and not given[name]:
            what = "a probe's findings" if name == "probe" else "likeness to a case"
            raise MapError(f"{folder.root}: these maps explain {what}; name it with `{name}`")
        if given[name] and not needed:
            raise MapError(f"{folder.root}: these maps explain {_KINDS.get(kind, kind)}; leave out `{name}`")
    opened = load_probe(probe) if isinstance(probe, str | os.PathLike) else probe
    return {
        "probe": opened,
        "findings": names,
        "prompt": names if kind == "prompt" else None,
        "like": like,
        "encoder": folder.about.get("encoder") if opened is None else None,
    }


_KINDS = {"probe": "a probe's findings", "prompt": "prompts", "like": "likeness to a case"}


def _check_model(folder: MapFolder, spec: EncoderSpec, targets: Targets, names: Sequence[str]) -> None:
    """Whether the encoder here is the one that the maps are of, and what it is asked for what they explain.

    Raises:
        MapError: where they are not.
    """
    own = folder.about.get("spec")
    if own is not None:
        maps = EncoderSpec.from_json(own)
        if maps.model != spec.model:
            weights = "" if maps.name != spec.name else " with other weights"
            raise MapError(f"{folder.root}: the maps are of {maps.name}{weights}, the scores are of {spec.name}")
    if missing := [name for name in names if name not in targets.names]:
        raise MapError(f"{folder.root}: the maps are of {missing[0]!r}, the score is of {targets.names[0]!r}")


def _chosen(
    folder: MapFolder, names: Sequence[str], cases: Sequence[Case], sample: int, seed: int
) -> tuple[dict[str, list[MapRecord]], list[str]]:
    """The maps of each image that takes part, and what is left out.

    Raises:
        MapError: where none of the images has a map.
    """
    records: dict[str, list[MapRecord]] = {}
    for record in folder.maps:
        if record.finding in names:
            records.setdefault(record.image_id, []).append(record)
    here = [case.image_id for case in cases if case.image_id in records]
    if not here:
        raise MapError(f"{folder.root}: has maps of {next(iter(records))!r}, and none of {cases[0].image_id!r}")
    notes = []
    if lacking := len(records) - len(here):
        have = counted(lacking, "image has maps", "images have maps")
        notes.append(f"{have} and no picture here: left out")
    if len(here) > sample:
        notes.append(f"{sample:,} of {len(here):,} images, drawn by the seed (`sample`)")
        drawn = np.random.default_rng([seed, 2]).permutation(len(here))[:sample]
        here = [here[number] for number in sorted(drawn)]
    return {image_id: records[image_id] for image_id in here}, notes
