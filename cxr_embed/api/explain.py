"""Where did it look? Heat maps of probes, prompts and likeness, each with the score without what it points at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from cxr_embed.api.embed import DEFAULT_ENCODER, manifest_of
from cxr_embed.api.inputs import Progress, StrPath, progress_or_bar
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import ExplainMethod, Fill
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.encoders.redrawn import untrained_weights
from cxr_embed.errors import ImageError, MapError
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.explainer import Explainer
from cxr_embed.explanation.hiding import CELLS, Hiding
from cxr_embed.explanation.loading import encoder_of, encoder_with_grid
from cxr_embed.explanation.making import OVERLAYS, Case, Made, explain_cases
from cxr_embed.explanation.measured import read_measured
from cxr_embed.explanation.methods import method_of
from cxr_embed.explanation.record import MAPS, MapFolder, read_maps, write_maps
from cxr_embed.explanation.targets import Targets, of_case, of_probe, of_prompts
from cxr_embed.images import read_image
from cxr_embed.io.files import new_folder
from cxr_embed.manifest import Manifest
from cxr_embed.store.forgotten import Forgotten, gather_forgotten
from cxr_embed.types import CxrImage, counted, note_stand_in

if TYPE_CHECKING:
    from cxr_embed.api.probe import FindingsProbe
    from cxr_embed.probe.persistence import TrainedProbe

_NOBODY = Forgotten()


@dataclass(frozen=True, kw_only=True, repr=False)
class Explanation(Tabular):
    """Heat maps in a folder.

    Attributes:
        folder: what `explain.json` says; `folder.load(record)` reads a map.
        failed: image to the reason why it has no map.
        notes: what the user should know, in sentences.
    """

    folder: MapFolder
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.folder.maps)

    def __repr__(self) -> str:
        return self._as_text([f"{self.folder.root}: {len(self)} heat maps by {self.folder.about['words']}"])

    def to_arrow(self) -> pa.Table:
        """A row a map: image, finding, score, and its value (log odds of a probe, else the cosine).

        Beside it the value without the map's region, and the mean value with as much hidden elsewhere.
        """
        rows = [
            {
                "image_id": record.image_id,
                "finding": record.finding,
                "score": record.score,
                "value": record.more.get("value"),
                "without_region": record.more.get("without_region"),
                "without_elsewhere": record.more.get("without_elsewhere"),
                "region_part": record.more.get("region_part"),
                "map": record.map,
                "overlay": record.more.get("overlay"),
            }
            for record in self.folder.maps
        ]
        return pa.Table.from_pylist(rows)

    def _remarks(self) -> Sequence[str]:
        stand_in = self.folder.about["stand_in"]
        return (str(self.folder.about["line"]), *([stand_in] if stand_in else []), *self.notes)


@checked_arguments
def explain(
    images: Sequence[StrPath] = (),
    *,
    out: StrPath,
    probe: FindingsProbe | StrPath | None = None,
    findings: Sequence[str] | None = None,
    prompt: Sequence[str] | None = None,
    like: StrPath | None = None,
    manifest: Manifest | StrPath | None = None,
    root: StrPath | None = None,
    method: ExplainMethod = "auto",
    cells: int = CELLS,
    fill: Fill = "blur",
    maps_only: bool = False,
    measured: StrPath | None = None,
    random_weights: bool = False,
    encoder: str | None = None,
    weights: StrPath | None = None,
    device: str = "auto",
    key_file: StrPath | None = None,
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Makes heat maps: what part of each picture a score comes from.

    The folder gets `explain.json`, `maps/<n>.npy` (float32, the method's own grid) and `overlays/<n>.png`. To check a
    map's claim, the region above half of its highest value is hidden: the value without it (log odds of a probe, else
    the cosine) stands beside the value, and beside the mean with as much hidden elsewhere.

    Args:
        images: files; with a `manifest`, image ids of it, all by default.
        out: the folder to write, new or empty.
        probe: whose findings are explained, a probe or its folder.
        findings: of the probe; all by default.
        prompt: or prompts, of an encoder that reads words.
        like: or the likeness to another case: a file; with a `manifest`, an image id of it.
        manifest: a table of images, or its path.
        root: the folder of the images, if not the manifest's own.
        method: `cam` (exact, where the vector is a mean of a map), `patch` (what each patch answers, where patches
            share a space with the vector), `gradcam` (by torch's gradients), `occlusion` (any encoder; squares are
            hidden), or `auto`: the first of these that can be had; `patch` for encoders with words alone, and not for
            a probe.
        cells: of `occlusion`, squares on a side.
        fill: what a hidden part is filled with: `blur`, the picture as from afar, or `grey`, its mean.
        maps_only: neither check the regions nor draw overlays.
        measured: what `explain evaluate --json` printed of such maps: the line under each map says how well they hit.
        random_weights: make the maps with the encoder's weights drawn at random, as before a training; a probe stays as
            it is. `evaluate_maps` and `evaluate_curves` hold others against them (Adebayo et al., 2018).
        encoder: of prompts and likeness; a probe knows its own.
        weights, device: as `load_encoder` takes them.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default. The list beside
            it says whose images are left out.
        announce: called with a line on what `occlusion` costs, before it begins.
        progress: called with a word, the pictures embedded and how many there are; a bar in notebooks by default.

    Raises:
        MapError: for what cannot be explained so, or a folder that cannot be written.
        StoreError: where patients were forgotten, and the key that shows whom is missing.
        ProbeError, EncoderError, ManifestError, ImageError: for what cannot be used.
    """
    _check_question(probe, findings, prompt, like)
    with new_folder(Path(out), MapError) as folder, ExitStack() as stack:
        forgotten = gather_forgotten(key_file=Path(key_file) if key_file is not None else None)
        hiding, (table, cases) = Hiding(cells, fill), cases_of(images, manifest, root, key_file)
        opened = _opened(probe) if probe is not None else None
        if random_weights:
            name = opened.trained.spec.name if opened is not None else encoder or DEFAULT_ENCODER
            weights = stack.enter_context(untrained_weights(name, weights))
        loaded, targets, about = targets_of(
            table,
            probe=opened,
            findings=findings,
            prompt=prompt,
            like=like,
            method=method,
            encoder=encoder,
            weights=weights,
            device=device,
            random_weights=random_weights,
            forgotten=forgotten,
        )
        try:
            how = method_of(method, loaded, targets, hiding)
            explainer = Explainer(encoder=loaded, targets=targets, method=how, fill=fill)
            if measured is not None:
                explainer = replace(explainer, measured=read_measured(Path(measured), explainer.about))
            for name in (MAPS,) if maps_only else (MAPS, OVERLAYS):
                (folder / name).mkdir()
            made = explain_cases(
                explainer,
                cases,
                table.root,
                folder,
                checks=not maps_only,
                forgotten=forgotten,
                announce=announce or _unheard,
                progress=progress_or_bar(progress) or _unheard,
            )
            _check_made(made)
            write_maps(folder, {**about, **explainer.about}, made.records)
        finally:
            loaded.close()
    return _explanation(Path(out), made)


def _check_question(probe: object, findings: object, prompt: object, like: object) -> None:
    if sum(given is not None for given in (probe, prompt, like)) != 1:
        raise MapError("name what is to be explained, one of a `probe`, a `prompt` and a case that images are `like`")
    if findings is not None and probe is None:
        raise MapError("`findings` are a probe's; name it with `probe`")


class Opened(NamedTuple):
    """A probe that was read without what training and evaluating it would import."""

    trained: TrainedProbe
    name: str


def _opened(probe: FindingsProbe | StrPath) -> FindingsProbe | Opened:
    """The probe itself, or one of a folder.

    Raises:
        ProbeError: where it cannot be read.
    """
    if isinstance(probe, str | os.PathLike):
        from cxr_embed.probe.persistence import load_probe

        return Opened(load_probe(Path(probe)), str(probe))
    return probe


def _check_made(made: Made) -> None:
    """Refuses a run without a map, and says how many images were left out.

    Raises:
        MapError: where all of them were.
        ImageError: where none can be read.
    """
    if made.left_out and not made.records and not made.failed:
        raise MapError("all of these images are of forgotten patients or files: not explained")
    if not made.records:
        raise ImageError("unreadable", f"no image can be read: {made.failed[0][1]}")
    if made.left_out:
        is_of = "image is of a forgotten patient or file", "images are of forgotten patients or files"
        made.notes.append(f"{counted(len(made.left_out), *is_of)}: not explained")


def _unheard(*words: object) -> None:
    del words


def _explanation(out: Path, made: Made) -> Explanation:
    failed = {case.image_id: why for case, why in made.failed}
    return Explanation(folder=read_maps(out), failed=failed, notes=tuple(made.notes))


def cases_of(
    images: Sequence[StrPath],
    manifest: Manifest | StrPath | None,
    root: StrPath | None,
    key_file: StrPath | None = None,
) -> tuple[Manifest, list[Case]]:
    """The table that the images stand in, and those that are explained.

    Raises:
        MapError: for no image, or an id that the manifest lacks.
    """
    if manifest is None:
        if not images:
            raise MapError("name `images` to explain: files, or with a `manifest` image ids")
        for path in images:
            if not Path(path).is_file():
                raise MapError(f"{path}: no such file; with a `manifest`, image ids are taken")
        table = manifest_of(None, images, root, (), key_file)
        return table, [Case(image_id, Path(path), patient) for image_id, path, patient in table.rows()]
    table = manifest_of(manifest, None, root, (), None)
    rows = {image_id: Case(image_id, Path(path), patient) for image_id, path, patient in table.rows()}
    if lost := [str(image) for image in images if str(image) not in rows]:
        raise MapError(f"the manifest has no image {lost[0]!r}; without a `manifest`, files are taken")
    return table, [rows[image_id] for image_id in dict.fromkeys(map(str, images))] or list(rows.values())


def targets_of(
    table: Manifest,
    *,
    probe: FindingsProbe | Opened | None,
    findings: Sequence[str] | None,
    prompt: Sequence[str] | None,
    like: StrPath | None,
    method: ExplainMethod = "auto",
    encoder: str | None,
    weights: StrPath | None,
    device: str,
    random_weights: bool = False,
    forgotten: Forgotten = _NOBODY,
) -> tuple[CheckedEncoder, Targets, dict[str, Any]]:
    """The encoder, loaded, what is explained, and what the record says of that.

    The encoder is loaded with the grid that the method reads: that makes embedding slower.

    Raises:
        MapError, EncoderError, ImageError: for what cannot be used, or is forgotten.
    """
    if probe is not None:
        trained = probe.trained
        if encoder is not None and encoder != trained.spec.name:
            raise MapError(f"the probe reads vectors of {trained.spec.name}, not of {encoder}; leave out `encoder`")
        targets = of_probe(trained, findings or ())
        loaded = encoder_of(
            trained.spec, trained.output, method, weights=weights, device=device, untrained=random_weights
        )
        note_stand_in(loaded.spec)
        return loaded, targets, {"explained": "probe", "probe": probe.name}
    name = encoder or DEFAULT_ENCODER
    loaded = encoder_with_grid(name, method, weights=weights, device=device)
    note_stand_in(loaded.spec)
    if prompt is not None:
        targets = of_prompts(loaded, list(dict.fromkeys(prompt)))
        return loaded, targets, {"explained": "prompt"}
    name, picture = _other_case(table, str(like), forgotten)
    targets = of_case(loaded, name, answers_of(loaded, [picture]))
    return loaded, targets, {"explained": "like"}


def _other_case(table: Manifest, like: str, forgotten: Forgotten) -> tuple[str, CxrImage]:
    """The case that images are like, a file or an image of the manifest: its name and its picture.

    Raises:
        MapError: for what is neither, or is forgotten.
        ImageError: where it cannot be read.
    """
    path, name, patient = Path(like), like, ""
    is_file = path.is_file()
    if not is_file:
        rows = {image_id: (file, owner) for image_id, file, owner in table.rows()}
        if like not in rows:
            raise MapError(f"{like}: neither a file nor an image of the manifest (`like`)")
        path, patient = table.root / rows[like][0], rows[like][1]
    try:
        image = read_image(path)
    except ImageError as error:
        raise ImageError(error.kind, f"{path}: {error} (`like`)") from None
    if is_file:
        name = str(manifest_of(None, [path], None, (), None).ids[0])
    if forgotten.covers(patient, name, bytes.fromhex(image.content_id)):
        raise MapError(f"{like}: of a forgotten patient or file (`like`)")
    return name, image
