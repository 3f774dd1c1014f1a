"""Radiographs and what is known of them, in memory: any folder with a manifest as the NIH recipe makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

import cxr_embed
from cxr_embed.encoders.mini.pixels import SIDE, shrink
from cxr_embed.encoders.resample import center_square, resize_matrix
from cxr_embed.images import read_image
from cxr_embed.phantom import FINDINGS

MARKED = tuple(FINDINGS)  # what phantoms have masks of
CELLS = SIDE // 8  # on a side of a map of places


@dataclass(frozen=True)
class Cases:
    """N radiographs.

    Attributes:
        ids: `(N,)` str.
        pixels: `(N, S, S)` uint8, 0..255 for the recipe's -1..1; S is SIDE, the side that `mini` sees, unless asked.
        labels: `(N, C)` float32 in {0, 1, NaN = unknown}.
        traits: `(N, 3)` float32: AP (1) or PA (0), male (1) or female (0), age in decades from 50; NaN = unknown.
        patients: `(N,)` str.
        places: `(N, MARKED, CELLS, CELLS)` uint8: the part of a cell that the finding covers, 255 for all of it.
        placed: `(N,)` bool: whether places are known, as they are of phantoms.
        findings: C names.
    """

    ids: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    traits: np.ndarray
    patients: np.ndarray
    places: np.ndarray
    placed: np.ndarray
    findings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Cases:
        """Those rows (a mask or indices)."""
        picked = {field.name: getattr(self, field.name) for field in fields(self)}
        return Cases(**{name: value if name == "findings" else value[rows] for name, value in picked.items()})

    def asked(self, findings: Sequence[str]) -> np.ndarray:
        """`(N, len(findings))` labels by name; NaN where this folder has no such column."""
        known = {name: column for column, name in enumerate(self.findings)}
        unknown = np.full(len(self), np.nan, dtype=np.float32)
        return np.stack([self.labels[:, known[name]] if name in known else unknown for name in findings], axis=1)


def joined(parts: Sequence[Cases]) -> Cases:
    """All of them one after the other, with the findings of each; unknown where a part does not have one."""
    findings = tuple(dict.fromkeys(name for part in parts for name in part.findings))
    columns = ("ids", "pixels", "traits", "patients", "places", "placed")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    return Cases(labels=np.concatenate([part.asked(findings) for part in parts]), findings=findings, **arrays)


def load_cases(folder: Path, split: str | None = None, side: int = SIDE) -> Cases:
    """Reads `folder/manifest.csv` and decodes its images.

    Args:
        folder: of the manifest, from which its paths lead.
        split: only the rows of this split; None takes all.
        side: of the pixels.

    Where there is a folder `masks`, as `cxr-embed phantom --masks` writes it, places are known.
    """
    manifest = cxr_embed.read_manifest(folder / "manifest.csv")
    rows = np.flatnonzero(manifest.column("split") == split) if split else np.arange(len(manifest))
    labels = manifest.labels()
    pixels = np.empty((len(rows), side, side), dtype=np.uint8)
    places = np.zeros((len(rows), len(MARKED), CELLS, CELLS), dtype=np.uint8)
    paths = manifest.column("path")
    for place, row in enumerate(rows):
        small = shrink(read_image(folder / paths[row]), side)
        pixels[place] = np.clip(np.rint((small + 1) * 127.5), 0, 255).astype(np.uint8)
    masks = folder / "masks"
    for place, row in enumerate(rows if masks.is_dir() else ()):
        for number, finding in enumerate(MARKED):
            if (path := masks / finding / f"{manifest.ids[row]}.png").is_file():
                places[place, number] = _cells(path)
    return Cases(
        ids=manifest.ids[rows],
        pixels=pixels,
        labels=np.asarray(labels.values, dtype=np.float32)[rows],
        traits=_traits(manifest)[rows],
        patients=manifest.column("patient_id")[rows],
        places=places,
        placed=np.full(len(rows), masks.is_dir()),
        findings=tuple(labels.names),
    )


def _cells(mask: Path) -> np.ndarray:
    """`(CELLS, CELLS)` uint8 of a mask's file, cropped as the image is."""
    square = center_square(read_image(mask).pixels)
    matrix = resize_matrix(len(square), CELLS)
    covered = matrix @ (matrix @ (square > 0).astype(np.float32)).T
    result: np.ndarray = np.clip(np.rint(covered.T * 255), 0, 255).astype(np.uint8)
    return result


def _traits(manifest: cxr_embed.Manifest) -> np.ndarray:
    view, sex, age = (manifest.column(name) for name in ("view", "sex", "age"))
    codes = {"PA": 0.0, "AP": 1.0, "F": 0.0, "M": 1.0}
    decades = [(float(value) - 50) / 10 if value not in ("", None) else np.nan for value in age]
    columns = [[codes.get(value, np.nan) for value in view], [codes.get(value, np.nan) for value in sex], decades]
    return np.asarray(columns, dtype=np.float32).T
