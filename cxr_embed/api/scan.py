"""A folder of radiographs, or a public data set as it was downloaded, to a manifest."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from cxr_embed.api.inputs import Progress, StrPath, progress_or_bar
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.datasets import Recipe, ScanResult, boxes_path, guess_near, guess_recipe, load_recipe
from cxr_embed.datasets import scan as run
from cxr_embed.errors import ManifestError
from cxr_embed.io.files import stays_below
from cxr_embed.manifest import (
    Companion,
    Manifest,
    check_new,
    check_new_companion,
    relative_root,
    write_companion,
    write_new_manifest,
)
from cxr_embed.store.keys import patient_key
from cxr_embed.types import counted


@dataclass(kw_only=True)
class ScannedFolder(Tabular):
    """A manifest in memory, and what happened on the way to it.

    Attributes:
        folder: that was read; `path` is relative to it.
        recipe: that it was read by.
        guessed_by: files by which the recipe was guessed, where none was named.
        result: the manifest's columns, what was skipped, and why.
        out: the manifest that was written, if one was.
        key_file: the key that hides its ids, where one was kept.
        near: a public data set whose folder is below or above this one, in a sentence; blank where there is none, or
            a recipe was named.
    """

    folder: Path
    recipe: Recipe
    guessed_by: tuple[str, ...]
    result: ScanResult
    out: Path | None
    key_file: Path | None
    near: str = ""

    def __len__(self) -> int:
        return len(self.result)

    def __repr__(self) -> str:
        patients = len(set(self.result.columns["patient_id"]))
        lines = [f"{self.out or self.folder}: {counted(len(self), 'image')} of {counted(patients, 'patient')}"]
        if self.guessed_by:
            lines.append(f"recipe: {self.recipe.name}, by {', '.join(self.guessed_by)}")
        return self._as_text(lines)

    def to_arrow(self) -> pa.Table:
        """The manifest, a row an image, all of it text."""
        return pa.table({name: pa.array(values, pa.string()) for name, values in self.result.columns.items()})

    @property
    def boxes(self) -> Mapping[str, Sequence[str]]:
        """Name to `B` values of the table of boxes (`image_id`, `finding`, `x`, `y`, `width`, `height` in pixels, and
        `reader` and `mask` where there are any); empty where the data set has none."""
        return self.result.boxes

    @property
    def manifest(self) -> Manifest:
        """The manifest as `embed` takes it."""
        findings = tuple(self.recipe.findings(self.result.labels))
        return Manifest(self.to_arrow(), self.folder, findings, _companion(self.recipe, self.result))

    @property
    def linked_away(self) -> list[str]:
        """Paths that lead out of the folder through a link."""
        below = stays_below(self.folder)
        return [path for path in self.result.columns["path"] if not below(self.folder / path)]

    def _remarks(self) -> Sequence[str]:
        remarks = [*([self.near] if self.near else []), *self.result.problems]
        if self.result.skipped:
            remarks.append(f"skipped {counted(len(self.result.skipped), 'other file')}")
        if self.result.unmatched is not None:
            remarks.append(str(self.result.unmatched))
        if self.recipe.terms:
            remarks.append(f"terms of {self.recipe.title}: {self.recipe.terms}")
        return remarks


@checked_arguments
def scan_folder(
    folder: StrPath,
    *,
    recipe: str | None = None,
    labelled_by: str | None = None,
    out: StrPath | None = None,
    patient_pattern: str | None = None,
    keep_patient_id: bool = False,
    key_file: StrPath | None = None,
    progress: Progress | None = None,
) -> ScannedFolder:
    """Makes a manifest of a folder of radiographs, or of a public data set as it was downloaded.

    Args:
        folder: where the radiographs are.
        recipe: a data set's layout, or a .yaml file of your own; by default that of the data set that the folder
            seems to be, else `folder`.
        labelled_by: which of the recipe's labels; its first by default.
        out: CSV or Parquet to write, with its companion and a file of boxes beside it; nothing is written without it,
            and no other file replaced.
        patient_pattern: regular expression searched in the relative path; its first group is the patient's id.
        keep_patient_id: hash nothing: patient ids, and image ids as the paths have them. Ids that a public data set
            publishes are never hashed.
        key_file: key of the hash; yours, which is made once, by default.
        progress: hears of each file.

    Returns:
        The manifest, which prints as a summary and goes into `embed` as `.manifest`.

    Raises:
        ManifestError: for a folder that is not as the recipe has it, or a manifest that cannot be written; with `out`,
            also where the folder seems to be a public data set and no recipe is named.
    """
    if keep_patient_id and key_file is not None:
        raise ManifestError(
            "`key_file` is the key of a hash, and `keep_patient_id` turns the hash off: give one of them"
        )
    root, target = Path(folder), Path(out) if out is not None else None
    guessed_by: tuple[str, ...] = ()
    near = ""
    if recipe is None:
        recipe, guessed_by = _guessed(root, target)
        near = "" if guessed_by else _near(root)
    layout = load_recipe(recipe)
    if target is not None:  # before the scan, which may take long
        check_new(target, layout.manifest_columns(layout.chosen_labels(labelled_by)))
        check_new_companion(target, Companion(), replaces=True)
    # Ids that a public table publishes are not hashed: no key is made for them.
    hashed = not keep_patient_id and not layout.public_ids and bool(patient_pattern or layout.hashes)
    key, key_path = _key(key_file, kept=target is not None) if hashed else (None, None)
    bar = progress_or_bar(progress)
    result = run(
        root,
        layout,
        patient_key=key,
        patient_pattern=patient_pattern,
        labelled_by=labelled_by,
        progress=partial(bar, "reading") if bar is not None else None,
    )
    if target is not None:
        _write(layout, result, target, root)
    return ScannedFolder(
        folder=root, recipe=layout, guessed_by=guessed_by, result=result, out=target, key_file=key_path, near=near
    )


def _guessed(root: Path, out: Path | None) -> tuple[str, tuple[str, ...]]:
    """The recipe of a folder for which none is named, and by which files: that of the data set that it seems to be.

    Raises:
        ManifestError: where a manifest would be written on a guess.
    """
    guess = guess_recipe(root) if os.path.isdir(root) else None
    if guess is None:
        return "folder", ()
    if out is not None:
        raise ManifestError(
            f"{root}: {guess.recipe.title}, by {', '.join(guess.files[:3])}; give `recipe={guess.recipe.name!r}` to "
            "read it by its own tables, or `recipe='folder'` to take the files alone"
        )
    return guess.recipe.name, guess.files[:3]


def _near(root: Path) -> str:
    """Where a public data set is, whose folder was missed by one or two levels."""
    found = guess_near(root) if os.path.isdir(root) else None
    if found is None:
        return ""
    folder, guess = found
    return (
        f"{folder} is {guess.recipe.title}, by {', '.join(guess.files[:3])}: scan that folder with "
        f"`recipe={guess.recipe.name!r}` for its labels"
    )


def _key(key_file: StrPath | None, kept: bool) -> tuple[bytes, Path | None]:
    """The key of patient ids, and its file; where no id is kept, a passing key does, and none is made for the user."""
    if kept or key_file is not None:
        return patient_key(Path(key_file) if key_file is not None else None)
    return secrets.token_bytes(32), None


def _companion(recipe: Recipe, result: ScanResult) -> Companion:
    """What is to be said of a manifest that was made by a recipe, wherever it lies."""
    return Companion(
        recipe=recipe.name,
        title=recipe.title,
        not_findings=tuple(result.not_findings),
        blank_words=recipe.blank,
        uncertain_words=recipe.uncertain,
        terms=recipe.terms,
        licence=recipe.licence,
        source=recipe.source,
        citation=recipe.citation,
        labels=result.labels or "",
        alternatives=tuple(name for name in recipe.labels if name != result.labels),
    )


def _write(recipe: Recipe, result: ScanResult, out: Path, root: Path) -> None:
    """A manifest, its boxes and its companion."""
    boxes = boxes_path(out).name if result.boxes else None
    companion = replace(_companion(recipe, result), root=relative_root(root, out), boxes=boxes)
    check_new_companion(out, companion)
    if result.boxes:
        write_new_manifest(boxes_path(out), result.boxes)
    write_new_manifest(out, result.columns)
    write_companion(out, companion)
