"""Look-alikes of JSRT's database and of ChestX-Det."""

from __future__ import annotations

import json
from pathlib import Path

from lookalikes.files import picture, text

_WHOLE = bytes(2 * 2048 * 2048)

# Tabs between columns; the place and the diagnosis take one cell or two; `?` where an age is not known.
NODULES = [
    "JPCLN901.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\t\tlung cancer\t",
    "JPCLN902.IMG\t1\t30\t?\tfemale\t614\t1090\tbenign\tr.lower lobe\t(S6)\tinflammatory\tmass",
    "JPCLN903.IMG\t3\t8\t7\tFemale\t1303\t447\tbenign\tl.upper lobe(S1+2)\t\ttuberculoma\t",
]
OTHERS = ["JPCNN901.IMG 62  male      non-nodule", "JPCNN902.IMG 8   female    non-nodule"]


def jsrt(root: Path, ends: str = "\r") -> None:
    """Raw films in one folder and the tables, with the line ends of old Macintoshes unless others are given."""
    for line in [*NODULES, *OTHERS]:
        film = root / "All247images" / line[:12]
        film.parent.mkdir(parents=True, exist_ok=True)
        with open(film, "wb") as file:
            file.truncate(len(_WHOLE))  # a hole: nothing is written
    text(root / "Clinical_Information" / "CLNDAT_EN.txt", ends.join([*NODULES, "", ""]), "cp1252")
    text(root / "Clinical_Information" / "CNNDAT_EN.TXT", ends.join([*OTHERS, ""]), "cp1252")


# Its first point stands twice, as it often does.
TRIANGLE = [[10, 20], [10, 20], [30, 20], [10, 45]]


def rectangle(left: int, upper: int, right: int, lower: int) -> list[list[int]]:
    """An outline whose points are pixels at the corners."""
    return [[left, upper], [right, upper], [right, lower], [left, lower]]


def chestx_det(root: Path) -> None:
    """Images without a finding, with several of one and of two kinds."""
    train = [
        {"file_name": "90001.png", "syms": [], "boxes": [], "polygons": []},
        {
            "file_name": "90002.png",
            "syms": ["Effusion", "Effusion", "Diffuse Nodule"],
            "boxes": [[799, 666, 937, 761], [10, 20, 30, 45], [0, 0, 1021, 1023]],
            "polygons": [rectangle(799, 666, 937, 761), TRIANGLE, rectangle(0, 0, 1021, 1023)],
        },
    ]
    test = [
        {
            "file_name": "80001.png",
            "syms": ["Pleural Thickening"],
            "boxes": [[5, 6, 7, 8]],
            "polygons": [rectangle(5, 6, 7, 8)],
        },
        {"file_name": "80002.png", "syms": [], "boxes": [], "polygons": []},
    ]
    for part, rows in {"train": train, "test": test}.items():
        text(root / f"ChestX_Det_{part}.json", json.dumps(rows))
        for row in rows:
            picture(root / f"{part}_data" / str(row["file_name"]))
