"""Several stores of one encoder as one: every image and failure once, and nobody who was forgotten in any of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cxr_embed.errors import StoreError
from cxr_embed.io.files import new_folder
from cxr_embed.store.forgotten import FORGOTTEN, Forgotten, carry_forgotten, gather_forgotten
from cxr_embed.store.layout import Header, Row, ShardInfo, shard_paths
from cxr_embed.store.prompts import join_prompts, load_prompts
from cxr_embed.store.push import stays_out
from cxr_embed.store.rewrite import checked_arrays, read_rows, states
from cxr_embed.store.writer import StoreWriter, describe
from cxr_embed.types import counted
from cxr_embed.version import __version__

Progress = Callable[[int, int], None]
_NAMED = 5


@dataclass(kw_only=True)
class MergedStore:
    """What a merge did.

    Attributes:
        path: the new store.
        images: with a vector in it.
        vectors: different ones.
        same: images that several of the stores have.
        failures: images without a vector.
        left_out: images that were forgotten in one of the stores, or by this user.
    """

    path: str
    images: int = 0
    vectors: int = 0
    same: int = 0
    failures: int = 0
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """What `store merge --json` prints."""
        return dict(vars(self))


def merge_stores(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    key_file: Path | None = None,
    progress: Progress | None = None,
) -> MergedStore:
    """Joins stores of one fingerprint, dtype and precision into a new one, which is there whole or not at all.

    Args:
        paths: two stores or more; they stay as they are.
        out: the folder of the new one.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called with the shards read and their number.

    Raises:
        StoreError: for stores of different encoders, dtypes or precisions; where an image's id is another file or
            another patient in two of them; for what is damaged or cannot be written.
    """
    roots = [Path(path) for path in paths]
    if len({os.path.realpath(root) for root in roots}) < 2:
        raise StoreError("`stores`: give two different stores or more")
    headers = [Header.read(root) for root in roots]
    _check_same(roots, headers)
    forgotten = gather_forgotten(*roots, key_file=key_file)
    known = _known(roots, headers, forgotten)
    with new_folder(Path(out), StoreError) as folder:
        carry_forgotten(roots, folder / FORGOTTEN, forgotten)
        first = headers[0]
        options: dict[str, Any] = {"dtype": first.dtype, "precision": first.precision, "key_file": key_file}
        with StoreWriter(folder, first.spec, software=__version__, **options) as writer:
            _write(roots, headers, known, writer, progress)
            images, failures = len(writer.index), len(writer.index.failures)
        _join_prompts(roots, headers, folder)
    return MergedStore(
        path=os.fspath(out),
        images=images,
        vectors=len(known.written),
        same=known.same,
        failures=failures,
        left_out=known.left_out,
    )


def _check_same(roots: Sequence[Path], headers: Sequence[Header]) -> None:
    """Refuses stores whose vectors are not one encoder's."""
    first = headers[0]
    for root, header in zip(roots[1:], headers[1:], strict=True):
        if header.spec.fingerprint != first.spec.fingerprint:
            raise StoreError(
                f"{root}: holds vectors of {describe(header.spec)}, and {roots[0]} of {describe(first.spec)}; "
                "only stores of one encoder can be merged"
            )
        for name, have, want in (
            ("dtype", header.dtype, first.dtype),
            ("precision", header.precision, first.precision),
        ):
            if have != want:
                raise StoreError(f"{root}: its {name} is {have}, that of {roots[0]} {want}; they cannot be merged")


@dataclass(kw_only=True)
class _Known:
    """What the images of the new store are: id to row, and which content is whose."""

    images: dict[str, Row] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    contents: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    written: set[bytes] = field(default_factory=set)
    same: int = 0
    left_out: int = 0

    def add(self, row: Row, root: Path) -> str:
        """Adds what a store says of an image; how that contradicts another store, blank where it does not."""
        there = self.images.get(row.image_id)
        if there is None:
            self.images[row.image_id], self.places[row.image_id] = row, root
            return ""
        self.same += 1
        if clash := _clash(there, row):
            return f"{row.image_id} is {clash} in {self.places[row.image_id]} and in {root}"
        patient = there.patient_id or row.patient_id
        if _is_better(row, there):
            there, self.places[row.image_id] = row, root
        self.images[row.image_id] = replace(there, patient_id=patient)
        return ""


def _known(roots: Sequence[Path], headers: Sequence[Header], forgotten: Forgotten) -> _Known:
    """Each image's one row.

    Raises:
        StoreError: where an id stands for two files, or two patients.
    """
    known, left_out = _Known(), dict[str, Row]()
    clashes: list[str] = []
    for root, header in zip(roots, headers, strict=True):
        for image_id, row in states([rows for *_, rows in read_rows(root, header)]).items():
            if stays_out(row, forgotten):
                left_out[image_id] = row
                continue
            if clash := known.add(row, root):
                clashes.append(clash)
    for image_id, row in left_out.items():
        if image_id in known.images and not _clash(known.images[image_id], row):
            del known.images[image_id]  # of a store that does not know whose it is
    if clashes:
        raise StoreError(
            f"{counted(len(clashes), 'id')} of images are not one image: {'; '.join(clashes[:_NAMED])}; give the "
            "images of one store other ids, and embed them again"
        )
    for image_id, row in known.images.items():
        if row.content is not None and row.error_kind is None:
            known.contents[row.content].append(image_id)
    known.left_out = len(left_out)
    return known


def _clash(one: Row, other: Row) -> str:
    """How two rows of an id contradict each other; blank where they do not. Who was never read contradicts nobody."""
    if one.patient_id and other.patient_id and one.patient_id != other.patient_id:
        return "another patient's"
    if None not in (one.content, other.content) and one.content != other.content:
        return "another file (or box)"
    return ""


def _is_better(row: Row, there: Row) -> bool:
    """Whether a row has a vector, or at least a content, where another has not."""
    rank = [
        (each.content is not None) + (each.content is not None and each.error_kind is None) for each in (row, there)
    ]
    return rank[0] > rank[1]


def _write(
    roots: Sequence[Path], headers: Sequence[Header], known: _Known, writer: StoreWriter, progress: Progress | None
) -> None:
    """Copies every vector that an image has, once, with the rows of its images; and the rows of failures."""
    engine, done = "", 0
    total = sum(len(shard_paths(root)) for root in roots)
    for root, header in zip(roots, headers, strict=True):
        for path, info, _, rows in read_rows(root, header):
            if info.engine != engine or writer.full:
                writer.flush(engine)
                engine = info.engine
            _copy(path, info, header, rows[: info.vectors], known, writer)
            done += 1
            if progress is not None:
                progress(done, total)
    missing = [content for content in known.contents if content not in known.written]
    if missing:
        raise StoreError(
            f"{counted(len(missing), 'vector')} are in none of the stores; `cxr-embed store verify` tells more"
        )
    for row in known.images.values():
        if row.content is None or row.error_kind is not None:
            writer.add_row(row)
            if writer.full:
                writer.flush(engine)
    writer.flush(engine)


def _copy(path: Path, info: ShardInfo, header: Header, owners: list[Row], known: _Known, writer: StoreWriter) -> None:
    """Copies those of a shard's vectors that are wanted and not there yet."""
    wanted = [
        n for n, owner in enumerate(owners) if owner.content in known.contents and owner.content not in known.written
    ]
    if not wanted:
        return
    arrays = checked_arrays(path, info, header)
    for n in wanted:
        content = owners[n].content
        assert content is not None
        if content in known.written:  # twice in one shard
            continue
        first, *others = known.contents[content]
        row = replace(known.images[first], unlike_chest=owners[n].unlike_chest)
        writer.add_vector(row, {output: array[n] for output, array in arrays.items()})
        for other in others:
            writer.add_row(replace(known.images[other], unlike_chest=None))
        known.written.add(content)
        if writer.full:
            writer.flush(info.engine)


def _join_prompts(roots: Sequence[Path], headers: Sequence[Header], folder: Path) -> None:
    """The prompts of all; of one that several have, the first store's vector."""
    for root, header in zip(roots, headers, strict=True):
        if header.spec.text is None or header.spec.text.output not in header.spec.outputs:
            continue
        join_prompts(folder, load_prompts(root, header))
