"""Made-up heat maps and marks: a folder as `explain` writes it, and twins of CheXlocalize's files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.explanation.record import HEADER, MAPS, MapRecord, write_maps

SHAPE = (48, 64)  # rows, columns
ABOUT = {"encoder": "toy", "method": "cam", "layer": "last"}


def record(number: int, image: str, finding: str, **more: object) -> MapRecord:
    """An entry whose grid covers the whole picture."""
    known = {
        "image_id": image,
        "patient_id": f"p{image}",
        "finding": finding,
        "score": 0.5,
        "map": f"{MAPS}/{number}.npy",
        "area": (0.0, 0.0, float(SHAPE[1]), float(SHAPE[0])),
        "height": SHAPE[0],
        "width": SHAPE[1],
    }
    return MapRecord(**{**known, **more})  # type: ignore[arg-type]


def write_folder(root: Path, maps: list[tuple[MapRecord, np.ndarray]]) -> Path:
    """Writes maps and their list."""
    (root / MAPS).mkdir(parents=True, exist_ok=True)
    for each, values in maps:
        np.save(root / each.map, values.astype(np.float32))
    write_maps(root, ABOUT, [each for each, _ in maps])
    assert (root / HEADER).exists()
    return root


def boxes_at(count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """Boxes of 12 x 10 pixels somewhere in the picture."""
    rng = np.random.default_rng(seed)
    return [(int(x), int(y), 12, 10) for x, y in rng.integers(0, [SHAPE[1] - 12, SHAPE[0] - 10], (count, 2))]


def peaked(box: tuple[int, int, int, int]) -> np.ndarray:
    """A map of 12 x 16 whose peak is in the middle of a box."""
    x, y, width, height = box
    down, across = (np.arange(12) + 0.5) * 4, (np.arange(16) + 0.5) * 4
    far = ((down - y - height / 2)[:, None] / height) ** 2 + ((across - x - width / 2) / width) ** 2
    return np.asarray(np.exp(-far))


def write_boxes(path: Path, rows: list[tuple[object, ...]]) -> Path:
    """A table of boxes."""
    lines = ["image_id,finding,x,y,width,height", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


TASKS = ("Edema", "Atelectasis", "Cardiomegaly", "Consolidation", "Lung Lesion", "Pneumothorax", "Airspace Opacity")
TASKS = (*TASKS, "Pleural Effusion", "Support Devices", "Enlarged Cardiomediastinum")


def write_chexlocalize(root: Path) -> Path:
    """Maps, outlines and thresholds in the form of CheXlocalize's files; all numbers are made up."""
    import torch

    rng = np.random.default_rng(7)
    (root / "maps").mkdir(parents=True)
    outlines: dict[str, dict[str, object]] = {}
    for patient in range(3):
        image = f"patient{patient + 1}_study1_view1_frontal"
        width, height = 200 + 31 * patient, 170 + 23 * patient
        outlines[image] = {"img_size": [height, width]}
        for number, task in enumerate(TASKS):
            coarse = torch.from_numpy(rng.random((1, 1, 7, 7), np.float32) ** 3)
            grid = torch.nn.functional.interpolate(coarse, size=(40, 40), mode="bilinear", align_corners=False)
            found = {"map": grid, "prob": 0.25 + patient / 8, "task": task, "gt": 1, "cxr_dims": (width, height)}
            (root / "maps" / f"{image}_{task}_map.pkl").write_bytes(pickle.dumps(found, protocol=3))
            if (patient + number) % 3:
                centre, size = rng.uniform(0.3, 0.7, 2) * (width, height), rng.uniform(20, 50)
                angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
                points = centre + size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
                outlines[image][task] = [points.round(3).tolist()]
    (root / "annotations.json").write_text(json.dumps(outlines))
    rows = [f"{0.2 + 0.1 * (number % 6):.1f},{task}" for number, task in enumerate(TASKS)]
    (root / "thresholds.csv").write_text("\n".join(["threshold,task", *rows]) + "\n")
    return root


def gradient_map(encoder: Any, output: str | None = None) -> tuple[str, np.ndarray]:
    """`gradcam`'s words and its map of how one picture is like another; it compares the value with the encoder's."""
    from dataclasses import replace

    from cxr_embed.explanation.answers import answers_of
    from cxr_embed.explanation.gradcam import GradCam
    from cxr_embed.explanation.hiding import Hiding
    from cxr_embed.explanation.targets import of_case
    from cxr_embed.explanation.tensors import cosine_of_mean
    from cxr_embed.index.faiss.vectors import unit
    from cxr_embed.types import CxrImage

    blocks = np.random.default_rng(5).integers(0, 256, (2, 12, 15))
    images = [
        CxrImage(pixels=np.kron(each, np.ones((8, 8))).astype(np.uint8), bits=8, content_id="", source="png")
        for each in blocks
    ]
    image, other = ({name: found[at] for name, found in answers_of(encoder, images).items()} for at in (0, 1))
    targets = of_case(encoder, "other", {name: found[None] for name, found in other.items()})
    if output is not None:
        directions = unit(other[output])[None]
        targets = replace(
            targets,
            output=output,
            values=lambda vectors: unit(vectors) @ directions.T,
            tensor_values=cosine_of_mean(directions),
        )
    method = GradCam.of(encoder, targets, Hiding())
    whole = targets.values(image[targets.output][None])[0]
    maps, _ = method.maps(images[0], image, whole, lambda _: None)
    return method.words, maps[0]
