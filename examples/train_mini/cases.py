"""Radiographs and what is known of them, in memory: any folder with a manifest as the NIH recipe makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

import cxr_embed
from cxr_embed.encoders.mini.pixels import SIDE, shrink
from cxr_embed.images import read_image


@dataclass(frozen=True)
class Cases:
    """N radiographs.

    Attributes:
        ids: `(N,)` str.
        pixels: `(N, SIDE, SIDE)` uint8, 0..255 for the recipe's -1..1.
        labels: `(N, C)` float32 in {0, 1, NaN = unknown}.
        traits: `(N, 3)` float32: AP (1) or PA (0), male (1) or female (0), age in decades from 50; NaN = unknown.
        patients: `(N,)` str.
        findings: C names.
    """

    ids: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    traits: np.ndarray
    patients: np.ndarray
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
    columns = ("ids", "pixels", "traits", "patients")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    return Cases(labels=np.concatenate([part.asked(findings) for part in parts]), findings=findings, **arrays)


def load_cases(folder: Path, split: str | None = None) -> Cases:
    """Reads `folder/manifest.csv` and decodes its images.

    Args:
        folder: of the manifest, from which its paths lead.
        split: only the rows of this split; None takes all.
    """
    manifest = cxr_embed.read_manifest(folder / "manifest.csv")
    rows = np.flatnonzero(manifest.column("split") == split) if split else np.arange(len(manifest))
    labels = manifest.labels()
    pixels = np.empty((len(rows), SIDE, SIDE), dtype=np.uint8)
    paths = manifest.column("path")
    for place, row in enumerate(rows):
        small = shrink(read_image(folder / paths[row]))
        pixels[place] = np.clip(np.rint((small + 1) * 127.5), 0, 255).astype(np.uint8)
    return Cases(
        ids=manifest.ids[rows],
        pixels=pixels,
        labels=np.asarray(labels.values, dtype=np.float32)[rows],
        traits=_traits(manifest)[rows],
        patients=manifest.column("patient_id")[rows],
        findings=tuple(labels.names),
    )


def _traits(manifest: cxr_embed.Manifest) -> np.ndarray:
    view, sex, age = (manifest.column(name) for name in ("view", "sex", "age"))
    codes = {"PA": 0.0, "AP": 1.0, "F": 0.0, "M": 1.0}
    decades = [(float(value) - 50) / 10 if value not in ("", None) else np.nan for value in age]
    columns = [[codes.get(value, np.nan) for value in view], [codes.get(value, np.nan) for value in sex], decades]
    return np.asarray(columns, dtype=np.float32).T
