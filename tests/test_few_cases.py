"""`probe train --shots`: as many positives as negatives, by patient, smaller draws inside larger ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import fill, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed.cases import Cases
from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.labelled import few_cases


def make(labels: list[list[float]]) -> Cases:
    values = np.array(labels, np.float32)
    ids = np.array([f"i{number}" for number in range(len(values))])
    patients = np.array([f"p{number // 2}" for number in range(len(values))])
    names = tuple(f"f{column}" for column in range(values.shape[1]))
    return Cases(
        ids=ids,
        patients=patients,
        names=names,
        columns=names,
        labels=values,
        clustered=True,
        table={},
        places=np.arange(len(ids)),
        notes=("before",),
    )


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, np.nan]), min_size=2, max_size=2), min_size=8, max_size=60),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_a_draw(labels: list[list[float]], shots: int, seed: int) -> None:
    cases = make(labels)
    try:
        few = few_cases(cases, shots, seed)
    except ProbeError:
        with pytest.raises(ProbeError, match="no finding has"):
            few_cases(cases, shots + 1, seed)
        return
    place = {image_id: number for number, image_id in enumerate(cases.ids.tolist())}
    for column, finding in enumerate(few.names):
        known = ~np.isnan(few.labels[:, column])
        drawn = few.labels[known, column]
        left_out = any(note.startswith(f"{finding} is left out") for note in few.notes)
        assert (drawn == 1).sum() == (drawn == 0).sum() == (0 if left_out else shots)
        original = cases.labels[[place[image_id] for image_id in few.ids[known].tolist()], column]
        np.testing.assert_array_equal(drawn, original)
        positive = few.patients[known][drawn == 1]
        assert not set(positive) & set(few.patients[known][drawn == 0])
    if shots > 1:
        fewer = few_cases(cases, shots - 1, seed)
        assert set(fewer.ids) <= set(few.ids) or any("left out" in note for note in few.notes)
    assert few.notes[0] == "before"


def test_the_verb(tmp_path: Path) -> None:
    fill(tmp_path / "store", range(40))
    lines = ["image_id,patient_id,common,rare"]
    lines += [f"i{number},p{number // 2},{number // 2 % 2},{int(number < 4)}" for number in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    done = run_cli("probe", "train", "store", "labels.csv", "--shots", "8", "--out", "probe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:4] for line in done.stdout.splitlines() if line.startswith("common")] == [
        ["common", "8", "8", "0"]
    ]
    assert "rare is left out: 4 positive images" in done.stdout
    done = run_cli("probe", "train", "store", "labels.csv", "--shots", "30", "--out", "probe", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no finding has 30 positives and 30 negatives to draw; choose fewer\n"
