"""Are heat maps where radiologists drew the NIH's boxes? The table of docs/heat-maps.md.

python benchmarks/nih_boxes.py OUT [ENCODER ...]        (mini, hog, timm:tf_efficientnet_lite0, or NAME=WEIGHTS)

Test images by a probe of the train split; all images with boxes by five probes, each of four fifths of the patients,
where the encoder itself learned from none of them.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import real_data

import cxr_embed as cx
from cxr_embed.encoders import encoder_card
from cxr_embed.explanation.record import MapRecord, read_maps, write_maps

FOLDS, SIZE = 5, (1024, 1024)  # the boxes are of pictures of that size
SHOWN = ("Pneumonia", "all pooled")
NOT_FINDINGS = {"image_id", "path", "patient_id", "follow_up", "age", "sex", "view", "split", "No Finding"}
ENCODERS = ("mini", "hog", "timm:tf_efficientnet_lite0")


class Data:
    """The manifest and its boxes."""

    def __init__(self, folder: Path) -> None:
        self.manifest, self.boxes = folder / "manifest.csv", folder / "boxes.csv"
        with open(self.manifest, newline="") as file:
            self.rows = list(csv.DictReader(file))
        with open(self.boxes, newline="") as file:
            marked = list(csv.DictReader(file))
        names = [name for name in self.rows[0] if name not in NOT_FINDINGS]
        self.findings = [name for name in names if any(row["finding"] == name for row in marked)]
        self.boxed = {row["image_id"] for row in marked}

    def labels(self, patients: set[str]) -> dict[str, list[Any]]:
        """The labels of some patients' images."""
        rows = [row for row in self.rows if row["patient_id"] in patients]
        columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("image_id", "patient_id")}
        return columns | {name: [int(row[name]) for row in rows] for name in self.findings}

    def split(self, name: str) -> set[str]:
        """Its patients."""
        return {row["patient_id"] for row in self.rows if row["split"] == name}

    def folds(self) -> list[set[str]]:
        """Patients, dealt."""
        patients = sorted({row["patient_id"] for row in self.rows})
        order = np.random.default_rng(0).permutation(len(patients))
        return [{patients[number] for number in order[fold::FOLDS]} for fold in range(FOLDS)]


def maps_of(data: Data, store: Any, tests: Iterable[set[str]], out: Path, **options: Any) -> list[Path]:
    """Maps of the images with boxes of each set of patients, by a probe of everybody else.

    Also those by the same encoder with its weights drawn at random, where it has weights.
    """
    everybody = {row["patient_id"] for row in data.rows}
    drawn = [False, True] if encoder_card(store.spec.name).has_weights else [False]
    parts: dict[bool, list[Path]] = {random: [] for random in drawn}
    for number, patients in enumerate(tests):
        probe = cx.train_probe(store, data.labels(everybody - patients), findings=data.findings)
        ids = [r["image_id"] for r in data.rows if r["patient_id"] in patients and r["image_id"] in data.boxed]
        for random in drawn:
            part = out.with_name(f"{out.name}-{number}{'-untrained' if random else ''}")
            more = {**options, "random_weights": random, "maps_only": True}
            cx.explain(ids, manifest=data.manifest, probe=probe, out=part, **more)
            parts[random].append(part)
    return [_joined(parts[random], out.with_name(f"{out.name}{'-untrained' if random else ''}")) for random in drawn]


def _joined(parts: Iterable[Path], out: Path) -> Path:
    """One folder of the maps of several, by probes that differ."""
    (out / "maps").mkdir(parents=True)
    records: list[MapRecord] = []
    for folder in map(read_maps, parts):
        for record in folder.maps:
            file = f"maps/{len(records)}.npy"
            shutil.copy(folder.root / record.map, out / file)
            records.append(replace(record, map=file))
    write_maps(out, folder.about, records)
    return out


def main(out: Path, *encoders: str) -> None:
    """Embeds, trains, explains and prints."""
    data = Data(real_data() / "nih")
    for named in encoders or ENCODERS:
        name, _, weights = named.partition("=")
        place = out / name.replace(":", "-")
        given = {"weights": weights or None}
        store = cx.embed(data.manifest, name, place / "store", precision="float32", **given)
        parts = {"test": [data.split("test")]}
        if not any(seen.data.startswith("nih") for seen in encoder_card(name).saw):
            parts["five folds"] = data.folds()
        for part, tests in parts.items():
            maps, *untrained = maps_of(data, store, tests, place / part.replace(" ", "-"), **given)
            found = cx.evaluate_maps(maps, data.boxes, untrained=untrained[0] if untrained else None, drawn_on=SIZE)
            _print(found, name, read_maps(maps).about["method"], part)


def _print(found: Any, *words: str) -> None:
    for row in found.to_arrow().to_pylist():
        if row["finding"] in SHOWN and row["figure"] in ("hit_rate", "auroc"):
            minus = "" if row["map_minus"] is None else f"the map has more by {_figure(row, 'map_minus')}"
            counts = f"{row['images']} images, {row['patients']} patients"
            figure = _figure({**row, "value_low": row["low"], "value_high": row["high"]}, "value")
            print(*words, row["finding"], counts, row["map"], row["figure"], figure, minus, sep=" | ", flush=True)


def _figure(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
