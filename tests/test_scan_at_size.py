"""A data set of the published size: NIH ChestX-ray14's 112,120 rows of 30,805 patients, files of a few bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from lookalikes import nih

IMAGES, PATIENTS = 112_120, 30_805
PNG = b"\x89PNG\r\n\x1a\n"  # what a scan looks at
MEASURED = """
import json, resource, sys, time
from pathlib import Path
from cxr_embed.datasets import load_recipe, scan
from cxr_embed.manifest import write_manifest
began = time.perf_counter()
result = scan(Path(sys.argv[1]), load_recipe("nih-chestxray14"), patient_key=None)
write_manifest(Path(sys.argv[2]), result.columns)
seconds, busy = time.perf_counter() - began, time.process_time()
# Of this program alone: getrusage counts what its parent held when it was started.
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
own = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
peak = own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "busy": busy, "peak": peak, "images": len(result),
    "boxes": len(result.boxes["x"]),
    "patients": len(set(result.columns["patient_id"])), "test": result.columns["split"].count("test"),
    "problems": result.problems, "skipped": len(result.skipped), "not_found": result.not_found}))
"""


def whole_nih(root: Path) -> Path:
    """The folder, with as many images, patients, test images and boxes as published; all cells are made up."""
    draw = random.Random(0)
    owners = sorted([*range(1, PATIENTS + 1), *(draw.randint(1, PATIENTS) for _ in range(IMAGES - PATIENTS))])
    lines, lists, boxes, seen = [], {"test": [], "train": []}, [], 0
    for number, patient in enumerate(owners):
        seen = seen + 1 if number and owners[number - 1] == patient else 0
        name = f"{patient:08d}_{seen:03d}.png"
        folder = root / f"images_{1 + number * 12 // IMAGES:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
        some = sorted(draw.sample(nih.FINDINGS[:-1], draw.randint(1, 4)))
        found = "|".join(some) if draw.random() < 0.46 else "No Finding"
        lines.append(
            f"{name},{found},{seen},{patient},{draw.randint(0, 99)},{draw.choice('MF')},PA,2500,2048,0.168,0.168"
        )
        lists["test" if patient % 30 < 7 else "train"].append(name)
        if number < 984:
            boxes.append(f"{name},Mass,{number}.5,20,30.25,40,,,")
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([",".join(nih.HEADER), *lines]) + "\n")
    (root / "BBox_List_2017.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes]) + "\n")
    (root / "test_list.txt").write_text("\n".join(lists["test"]) + "\n")
    (root / "train_val_list.txt").write_text("\n".join(lists["train"]))
    return root


@pytest.mark.soak
def test_all_of_nih_chestxray14(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = whole_nih(tmp_path / "data")
    command = [sys.executable, "-c", MEASURED, str(root), str(tmp_path / "nih.csv")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    measured = json.loads(run.stdout)
    took = f"{measured['seconds']:.1f} s ({measured['busy']:.1f} s of a core)"
    with capsys.disabled():
        print(f"\n{took}, {measured['peak'] / 1e9:.2f} GB at most")
    expected = {"images": IMAGES, "patients": PATIENTS, "boxes": 984, "problems": [], "skipped": 0, "not_found": 0}
    assert {name: measured[name] for name in expected} == expected
    assert 0.15 < measured["test"] / IMAGES < 0.3
    assert measured["peak"] < 1e9
    assert measured["busy"] < 30  # of the processor: what a machine does besides has no part in it
