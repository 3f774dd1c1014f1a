"""What an index takes from a store: which images, its prompts, and what it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import BOX, CONTENT, IMAGE, PATIENT, image_ids
from cxr_embed.index.faiss.layout import PROMPTS
from cxr_embed.io.digests import sha256_hex
from cxr_embed.manifest import Manifest
from cxr_embed.regions import picture_of
from cxr_embed.store import Store, read_prompts
from cxr_embed.store.forgotten import Forgotten, gather_forgotten
from cxr_embed.store.prompts import PROMPTS as STORE_PROMPTS
from cxr_embed.types import counted

_NAMED = 3


def identity(store: Store) -> dict[str, Any]:
    """What distinguishes one state of a store from every other: digests of its header and of its last shard."""
    last = max((path.name for path in (store.path / "shards").iterdir()), default="")
    header = sha256_hex(store.header.to_bytes())
    return {"header": header, "created": store.header.created, "shards": store.shards, "last_shard": last}


def chosen_images(store: Store, manifest: Manifest | None, forgotten: Forgotten) -> tuple[np.ndarray, tuple[str, ...]]:
    """`(N,)` bool, the store's images that the manifest lists (all without one), and notes for the user.

    Images that are to stay out are left out, whoever's they are in the store or in the manifest.

    Raises:
        CaseIndexError: where none is left.
    """
    chosen, notes = _listed_images(store, manifest)
    if manifest is not None:
        blank = ("blank labels are kept as negative, as the manifest's companion says",)
        notes = (*notes, *manifest.notes, *(blank if manifest.blank == "negative" and manifest.findings else ()))
    if not forgotten:
        return chosen, notes
    listed = (
        {} if manifest is None else dict(zip(manifest.ids.tolist(), manifest.column(PATIENT).tolist(), strict=True))
    )
    ids, owners, files = store.ids.tolist(), store.index.column("patient_id"), store.index.files()
    out = np.array(
        [
            forgotten.covers(patient, image_id, file) or forgotten.has_patient(listed.get(image_id, ""))
            for image_id, patient, file in zip(ids, owners, files, strict=True)
        ]
    )
    if store.index.has_regions:
        pictures = [forgotten.has_image(owner, picture_of(name)) for name, owner in zip(ids, owners, strict=True)]
        out |= np.array(pictures)
    if count := int((chosen & out).sum()):
        notes = (*notes, f"{count:,} images are of forgotten patients or files: not indexed")
        if not (chosen & ~out).any():
            raise CaseIndexError(f"{store.path}: all of these images are of forgotten patients or files")
    return chosen & ~out, notes


def forgotten_of(store: Store, root: Path | None, key_file: Path | None) -> Forgotten:
    """What is to stay out of an index in a folder that is made of a store.

    Raises:
        StoreError: where the key is missing.
    """
    return gather_forgotten(*[root] if root is not None else [], store.path, key_file=key_file)


def _listed_images(store: Store, manifest: Manifest | None) -> tuple[np.ndarray, tuple[str, ...]]:
    if not len(store):
        raise CaseIndexError(f"{store.path}: holds no image with a vector; embed some first")
    if manifest is None:
        return np.ones(len(store), bool), ()
    stored = pc.index_in(image_ids(store), value_set=manifest.table[IMAGE].combine_chunks())
    chosen = np.asarray(stored.is_valid())
    if not chosen.any():
        raise CaseIndexError(
            f"{store.path}: none of the manifest's {counted(len(manifest), 'image')} has a vector here"
        )
    notes = []
    if missing := len(manifest) - int(chosen.sum()):
        lacking = counted(missing, "image of the manifest has", "images of the manifest have")
        notes.append(f"{lacking} no vector in {store.path}: not indexed")
    if more := int((~chosen).sum()):
        are = "is" if more == 1 else "are"
        notes.append(f"{counted(more, 'image')} of {store.path} {are} not in the manifest: not indexed")
    notes += _other_boxes(store, manifest, stored)
    if PATIENT not in manifest.table.column_names:
        return chosen, tuple(notes)
    recorded = pa.array(store.index.column("patient_id"), pa.string())
    listed = manifest.table[PATIENT].combine_chunks().take(stored)
    differs = pc.and_(pc.not_equal(recorded, listed), pc.not_equal(recorded, ""))
    if differing := pc.sum(differs).as_py():
        notes.append(
            f"{counted(differing, 'image has', 'images have')} another patient in the manifest than in the "
            "store: the manifest's counts"
        )
    return chosen, tuple(notes)


def _other_boxes(store: Store, manifest: Manifest, stored: pa.Array) -> list[str]:
    """A note on regions that the manifest has elsewhere than they were cut out: what it says is of another part."""
    if not (store.index.has_regions and manifest.has_regions):
        return []
    listed = pa.array(manifest.boxes.tolist(), pa.string()).take(stored)
    differs = pc.not_equal(pa.array(store.index.column(BOX), pa.string()), listed)
    if not (count := pc.sum(differs).as_py()):
        return []
    have = counted(count, "region has", "regions have")
    return [f"{have} another box in the manifest than in {store.path}: embed the manifest again"]


def changed_files(store: Store, chosen: np.ndarray, places: pa.Array, table: pa.Table) -> tuple[str, ...]:
    """A note on images that are indexed already, from other files or boxes than the store's vectors are of.

    Args:
        store: that is added.
        chosen: `(N,)` bool, its images that are wanted.
        places: `(N,)` of its images in the index's table; null where they are new.
        table: the index's.
    """
    stored = pa.array(store.index.files(), pa.binary(32))
    indexed = table[CONTENT].combine_chunks().cast(pa.binary(32)).take(places)
    differs = np.asarray(pc.not_equal(stored, indexed).fill_null(False)) & chosen
    what = "file"
    if store.index.has_regions:
        what = "file or box"
        boxes = pa.array(store.index.column(BOX), pa.string())
        there = table[BOX].combine_chunks().cast(pa.string()).take(places)
        differs |= np.asarray(pc.not_equal(boxes, there).fill_null(False)) & chosen
    if not differs.any():
        return ()
    named = ", ".join(store.ids[differs][:_NAMED].tolist()) + (", ..." if differs.sum() > _NAMED else "")
    return (
        f"{counted(int(differs.sum()), 'image is', 'images are')} indexed from another {what} than {store.path} has "
        f"({named}): left as they are; `index remove` them first to have the new vectors",
    )


def copy_prompts(store: Store, folder: Path) -> None:
    """Takes a store's prompts along, where it has some.

    Raises:
        StoreError: where they are damaged: nobody would know it of a copy.
    """
    source = store.path / STORE_PROMPTS
    if source.exists():
        read_prompts(store)
        shutil.copyfile(source, folder / PROMPTS)
