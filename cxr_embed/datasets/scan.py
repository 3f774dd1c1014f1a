"""A folder and a recipe to a manifest."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_embed.datasets.boxes import BoxTable
from cxr_embed.datasets.discovery import candidates, file_kind, other_files, printable
from cxr_embed.datasets.guess import guess_near, guess_recipe
from cxr_embed.datasets.image_rows import Hide, ImageRows
from cxr_embed.datasets.labels import Labeller, check_labels
from cxr_embed.datasets.patients import RevealingPaths, compiled_pattern, hashed, neutral
from cxr_embed.datasets.recipe import Recipe, load_recipe
from cxr_embed.datasets.recipe_parts import Source
from cxr_embed.datasets.result import ScanResult, UnmatchedFile
from cxr_embed.datasets.tables import read_splits, read_tables
from cxr_embed.errors import ImageError, ManifestError
from cxr_embed.images import read_dicom_header
from cxr_embed.images.identifiers import Identifiers, read_identifiers
from cxr_embed.manifest import CONTROL, check_columns, leaves_root
from cxr_embed.manifest.patterns import match_bounded
from cxr_embed.manifest.spellings import plain_column
from cxr_embed.types import counted

_NAMED = 3
Progress = Callable[[int, int], None]  # files that are done, and all


class _Skipped(Exception):
    """Why a file is left out."""


def scan(
    root: Path,
    recipe: Recipe,
    *,
    patient_key: bytes | None,
    patient_pattern: str | None = None,
    labelled_by: str | None = None,
    progress: Progress | None = None,
) -> ScanResult:
    """Makes a manifest's columns from a folder.

    With a key, patient ids become a keyed hash, wherever they come from but a public data set's own table; and so do
    the image ids of paths that hold a UID, that patient's id, or what a DICOM header says of a person or an order:
    names, birth date, accession number and other ids, in any spelling. Without a key, all of it stays as it is; and so
    do the ids of a data set whose recipe says that they are public.

    Args:
        root: the data set's folder; paths in the result are relative to it.
        recipe: how the data set is laid out.
        patient_key: key of the hash; None keeps ids in clear.
        patient_pattern: regular expression searched in the relative path; its first group is the patient's id.
        labelled_by: which of the recipe's labels; its first by default.
        progress: hears of `(done, total)` files.

    Raises:
        ManifestError: where the folder, its tables or its lists are missing or are those of another data set, or no
            radiograph is found.
    """
    if not os.path.isdir(root):
        raise ManifestError(f"{root}: {'a file, not a folder' if os.path.exists(root) else 'no such folder'}")
    key = None if recipe.public_ids else patient_key
    pattern, labels = compiled_pattern(patient_pattern), recipe.chosen_labels(labelled_by)
    try:
        run = _Scan(root, recipe, key, pattern, labels)
    except ManifestError as error:
        if (hint := _hint(root, recipe)) is None:
            raise
        raise ManifestError(f"{error}\n  {hint}", error.problems) from None
    files = candidates(root, recipe.images, run.result.skipped, recipe.not_images)
    for done, relative in enumerate(files, 1):
        run.add(relative)
        if progress is not None:
            progress(done, len(files))
    return run.finish()


def _hint(root: Path, recipe: Recipe) -> str | None:
    """What a folder is whose tables a recipe does not find, or where those are; None where nobody knows."""
    guess = guess_recipe(root)
    if guess is not None and guess.recipe.name != recipe.name:
        return f"by {', '.join(guess.files[:_NAMED])} it is {guess.recipe.title}: `recipe={guess.recipe.name!r}`"
    near = guess_near(root, recipe.name)
    return f"its tables are in {near[0]}: give that folder" if near is not None else None


def scan_files(files: Sequence[Path], root: Path, *, patient_key: bytes | None) -> ScanResult:
    """Makes a manifest's columns of some files, as the recipe `folder` reads them; all else is as `scan` has it.

    Args:
        files: radiographs below `root`.
        root: that paths in the result are relative to.
        patient_key: key of the hash; None keeps ids in clear.

    Raises:
        ManifestError: naming the files that are not radiographs.
    """
    run = _Scan(root, load_recipe("folder"), patient_key, None, None)
    for path in files:
        run.add(path.relative_to(root).as_posix())
    if run.result.skipped:
        faults = "; ".join(f"{path}: {reason}" for path, reason in run.result.skipped[:_NAMED])
        more = counted(len(run.result.skipped), "file cannot be used", "files cannot be used")
        raise ManifestError(f"`images`: {more} ({faults}); leave them out")
    return run.finish()


class _Scan:
    """A scan while it lasts."""

    def __init__(
        self, root: Path, recipe: Recipe, key: bytes | None, pattern: re.Pattern[str] | None, labels: str | None
    ) -> None:
        self._root, self._recipe, self._key, self._pattern = root, recipe, key, pattern
        self._tables, self._splits = read_tables(root, recipe, labels), read_splits(root, recipe)
        others = check_labels(recipe, labels, self._tables)
        self._labeller = Labeller(recipe, labels)
        self._boxes = BoxTable(recipe.boxes or [])
        first = next(iter(self._tables.values()), None)
        self._list = first if first is not None and first.files and first.spec.by == "image" else None
        self.result = ScanResult(
            columns={name: [] for name in recipe.manifest_columns(labels)},
            labels=labels,
            others=others,
            not_findings=recipe.not_findings(labels),
        )
        self._seen: set[str] = set()
        self._unmatched: ImageRows | None = None
        self._revealing = RevealingPaths()

    def add(self, relative: str) -> None:
        """A file to a row, or among the skipped ones."""
        try:
            image = self._known(relative)
            values, identifiers = self._read(image)
        except (ImageError, _Skipped) as error:
            self.result.skipped.append((printable(relative), str(error)))
            return
        if self._list is not None and not image.rows.get(self._list.name):
            self.result.unlisted += 1
        self._seen.add(image.key)
        if self._pattern and (match := match_bounded(self._pattern, relative)) and (match[1] or "").strip():
            values["patient_id"] = hashed(match[1].strip(), self._key)
            self._revealing.add(relative, match.end(1))
        if self._key is not None:
            self._look(relative, identifiers)
            values |= _revealing_columns(values, self._recipe, identifiers, self._key)
        values["path"] = relative
        if self._recipe.split:
            values["split"] = self._splits.get(relative.rpartition("/")[2], "")
        values |= self._labeller.of(image, values.get("split", ""))
        self._boxes.add(relative, image)
        for column, cells in self.result.columns.items():
            cells.append(values[column])

    def _known(self, relative: str) -> ImageRows:
        """The file as the tables know it.

        Raises:
            _Skipped: where they do not, or know it as a file that was there before.
        """
        _check_name(relative)
        image = ImageRows(relative, self._tables)
        image.look_up(self._recipe)
        table = self._list
        if table is None:
            return image
        if not image.rows.get(table.name):
            self._unmatched = self._unmatched or image
            if table.spec.complete:
                raise _Skipped("not in the data set's table")
        elif image.key in self._seen:
            raise _Skipped("a second file of its name")
        return image

    def _read(self, image: ImageRows) -> tuple[dict[str, str], Identifiers | None]:
        """A row's columns but for `path`, lists of `split` and labels, and what a DICOM header says of people.

        Raises:
            ImageError, _Skipped: for a file that is not a radiograph.
        """
        identifiers = None
        path = self._root / image.relative
        if file_kind(path) == "dicom":
            if any(source.dicom for sources in self._recipe.columns.values() for source in sources):
                image.header = _header(path)
            identifiers = read_identifiers(path) if self._key is not None else None
        values = {}
        for name, sources in self._recipe.columns.items():
            value = image.value(sources, self._hide(name))
            spelling = plain_column(name)
            values[name] = spelling(value) if spelling is not None else value
        if not values["image_id"]:
            raise _Skipped("its path does not match the recipe's image_id")
        return values, identifiers

    def _hide(self, column: str) -> Hide | None:
        """Hashes whose image it is, where there is a key: not what a public data set's own table says."""
        key = self._key
        if key is None:
            return None

        def hide(source: Source, value: str) -> str:
            whose = source.dicom == "patient_id" or (column == "patient_id" and source.path is not None)
            return hashed(value, key) if whose else value

        return hide

    def _look(self, relative: str, identifiers: Identifiers | None) -> None:
        """What a path gives away by the recipe's own patient patterns, and by the file's header."""
        for source in self._recipe.columns["patient_id"]:
            if source.path is not None and (match := re.fullmatch(source.path, relative)) and match[1]:
                self._revealing.add(relative, match.end(1))
        if identifiers is not None:
            self._revealing.look(relative, identifiers)

    def finish(self) -> ScanResult:
        """The result, with ids that are neutral where they have to be, and distinct.

        Raises:
            ManifestError: where no radiograph was found.
        """
        result = self.result
        result.unmatched = self._first_unmatched()
        if not len(result):
            skipped = result.skipped
            first = f" (the first of {len(skipped)} skipped: {': '.join(skipped[0])})" if skipped else ""
            if result.unmatched is not None:
                first += f"\n  {result.unmatched}"
            elif not skipped:
                first = f"; {self._recipe.name} reads {', '.join(self._recipe.images)}{other_files(self._root)}"
            raise ManifestError(f"{self._root}: no radiograph found{first}")
        result.not_found = len(self._list.rows.keys() - self._seen) if self._list is not None else 0
        ids = result.columns["image_id"] = self._image_ids()
        patients = result.columns["patient_id"]
        result.without_patient = patients.count("")
        result.columns["patient_id"] = [known or f"unknown-{own}" for known, own in zip(patients, ids, strict=True)]
        result.boxes = self._boxes.columns(result.columns["path"], ids)
        result.problems = [*check_columns(result.columns), *self._labeller.problems, *self._boxes.problems]
        return result

    def _first_unmatched(self) -> UnmatchedFile | None:
        """The first file that the list of images lacks; of a list of some, only where it has none of them."""
        table, image = self._list, self._unmatched
        if table is None or image is None or not (table.spec.complete or self._seen.isdisjoint(table.rows)):
            return None
        return UnmatchedFile(printable(image.relative), image.key, table.files[0], table.nearest(image.key))

    def _image_ids(self) -> list[str]:
        ids, paths = self.result.columns["image_id"], self.result.columns["path"]
        key = self._key
        if key is None:
            return _distinct(ids, paths)
        away = [path in self._revealing for path in paths]
        self.result.neutral = sum(away)
        short, long = (
            [neutral(own, key) if reveals else own for own, reveals in zip(names, away, strict=True)]
            for names in (ids, paths)
        )
        return _distinct(short, long)


def _revealing_columns(
    values: dict[str, str], recipe: Recipe, identifiers: Identifiers | None, key: bytes
) -> dict[str, str]:
    """Columns that a recipe takes from the path, a study's id say, hashed where the header gives them away."""
    paths = [name for name, sources in recipe.columns.items() if any(source.path for source in sources)]
    taken = [name for name in paths if name not in ("image_id", "patient_id")]
    return {n: hashed(values[n], key) for n in taken if identifiers is not None and identifiers.in_text(values[n])}


def _check_name(relative: str) -> None:
    """Refuses a file that a manifest could not name."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise _Skipped("its name is not UTF-8") from None
    if CONTROL.search(relative) or relative != relative.strip():
        raise _Skipped("its name holds a control character, or a space at its end")
    if leaves_root(relative):
        raise _Skipped("its name would lead out of the folder on another system")


def _distinct(ids: list[str], long_ids: list[str]) -> list[str]:
    """Gives all of a.png, a.dcm and a.jpg, which have one id, their long ids instead.

    Not the first of them its short id: that id would pass to another image when a file is added.
    """
    before: list[str] = []
    while ids != before:  # a long id can be the short id of another file
        clashing = {image_id for image_id, count in Counter(ids).items() if count > 1}
        before, ids = ids, [long if own in clashing else own for own, long in zip(ids, long_ids, strict=True)]
    return ids


def _header(path: Path) -> dict[str, str]:
    """The fields of a DICOM header, by their names in a recipe."""
    fields, patient = read_dicom_header(path, None)
    return {
        "patient_id": patient,
        "study_date": fields.study_date,
        "view": fields.view,
        "age": "" if fields.age is None else str(fields.age),
        "sex": fields.sex,
    }
