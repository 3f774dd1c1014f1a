"""The one join: against a plain loop over dicts, and what every use says of the same fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import fill
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_embed as cx
from cxr_embed.cases import CasesError, PatientsOf, Side, check_apart, chosen_findings, common_findings, in_split, join
from cxr_embed.manifest import labels_of_table
from cxr_embed.types import Labels

IDS = st.lists(st.sampled_from([f"i{number}" for number in range(12)]), unique=True, min_size=1)


@settings(max_examples=200)
@given(IDS, IDS, st.data())
def test_a_join_is_that_of_a_plain_loop(labelled: list[str], there: list[str], data: st.DataObject) -> None:
    cell = st.sampled_from(["0", "1", "", "-1"])
    rows = {i: (data.draw(cell), data.draw(cell), data.draw(st.sampled_from(["a", "b"]))) for i in labelled}
    known = {i: data.draw(st.sampled_from(["", f"p{ord(i[-1]) % 3}"])) for i in there}
    table = pa.table(
        {
            "image_id": labelled,
            "split": [rows[i][2] for i in labelled],
            "X": [rows[i][0] for i in labelled],
            "Y": [rows[i][1] for i in labelled],
        }
    )
    labels = labels_of_table(table)
    side = Side(np.array(there), "vectors", "vector")
    expected = [i for i in labelled if rows[i][2] == "a" and i in there]
    if not expected:
        with pytest.raises(CasesError, match=r"the splits are: b|no image_id in common"):
            join(labels, side, columns=["Y", "X"], split="a")
        return
    owners = [PatientsOf("the store", np.array([known[i] for i in there]))]
    cases = join(labels, side, columns=["Y", "X"], split="a", uncertain="positive", patients=owners)
    numbers = {"0": 0.0, "1": 1.0, "-1": 1.0, "": np.nan}
    assert cases.ids.tolist() == expected
    np.testing.assert_array_equal(cases.labels, [[numbers[rows[i][1]], numbers[rows[i][0]]] for i in expected])
    assert cases.patients.tolist() == [known[i] or f"\n{i}" for i in expected]
    assert cases.clustered == any(known[i] for i in expected)
    assert [there[place] for place in cases.places] == expected
    assert cases.lost == sum(rows[i][2] == "a" and i not in there for i in labelled)
    assert cases.uncertain == sum(rows[i][:2].count("-1") for i in expected)
    reordered = cases.keep(np.argsort(cases.ids), ("X",))
    assert reordered.ids.tolist() == sorted(expected)
    np.testing.assert_array_equal(reordered.labels[:, 0], [numbers[rows[i][0]] for i in sorted(expected)])
    assert cases.keep(np.arange(len(cases)), ()).labels.shape == (len(cases), 0)


def test_two_sources_of_patients_must_agree_where_both_say() -> None:
    labels = labels_of_table(pa.table({"image_id": ["a", "b"], "patient_id": ["p", "q"], "X": ["1", "0"]}))
    side = Side(np.array(["b", "a"]), "s.csv", "score")
    agreeing = [PatientsOf("the scores", np.array(["q", ""]))]
    assert join(labels, side, columns=["X"], patients=agreeing).patients.tolist() == ["p", "q"]
    other = [PatientsOf("the scores", np.array(["q", "r"]))]
    with pytest.raises(CasesError, match="1 image has one patient in the labels and another in the scores, such as a"):
        join(labels, side, columns=["X"], patients=other)
    with pytest.raises(CasesError, match="no patient is given for a; name one"):
        join(labels, side, columns=["X"], patients=[PatientsOf("the scores", np.array(["q", ""]), complete=True)])


def test_labels_in_memory_have_no_splits() -> None:
    labels = Labels(np.array(["a"]), ("X",), np.ones((1, 1), np.float32))
    side = Side(np.array(["a"]), "scores", "score")
    assert join(labels, side, columns=["X"]).table == {}
    with pytest.raises(CasesError, match="the labels have no splits, and 'test' is asked for"):
        join(labels, side, columns=["X"], split="test")
    with pytest.raises(CasesError, match="no image_id in common: 'a' in the scores, the labels are empty"):
        join(Labels(np.array([], np.str_), ("X",), np.ones((0, 1), np.float32)), side, columns=["X"])


def test_findings_are_matched_by_like_names() -> None:
    assert chosen_findings(["pleural_effusion", "Mass"], ["Mass", "Pleural Effusion"], "x") == (
        "Pleural Effusion",
        "Mass",
    )
    assert chosen_findings(None, ["Mass"], "x") == ("Mass",)
    with pytest.raises(CasesError, match=r"x: no finding Nodul; the findings are: Mass, Nodule \('Nodul' is near"):
        chosen_findings(["Nodul"], ["Mass", "Nodule"], "x")
    columns, names, notes = common_findings(["mass", "Other"], ["Mass", "More"], "the scores", "the labels")
    assert (columns, names, notes) == (("Mass",), ("mass",), ["labels matched by a like name: mass = Mass"])


def test_a_split_that_is_not_there_names_those_that_are() -> None:
    assert in_split(np.array(["a", "b", ""]), "a", "x").tolist() == [True, False, False]
    with pytest.raises(CasesError, match="x: no image is in the split 'c'; the splits are: a, b"):
        in_split(np.array(["a", "b", ""]), "c", "x")


def test_parts_share_nobody() -> None:
    labels = labels_of_table(pa.table({"image_id": ["a", "b"], "patient_id": ["p", "p"], "X": ["1", "0"]}))
    cases = join(labels, Side(np.array(["a", "b"]), "s", "score"), columns=["X"])
    with pytest.raises(CasesError, match=r"1 patient is tested and learned from \(p\); give each patient one split"):
        check_apart(cases.keep(np.array([0])), cases.keep(np.array([1])), ("tested", "learned from"))
    with pytest.raises(CasesError, match=r"1 image is tested and learned from \(a\)"):
        check_apart(cases.keep(np.array([0])), cases.keep(np.array([0])), ("tested", "learned from"))


def test_every_use_says_the_same_of_the_same_fault(tmp_path: Path) -> None:
    """A split, a finding and a prevalence that cannot be, by training, evaluating, comparing and reporting."""
    fill(tmp_path / "store", range(20))
    rows = [f"i{n},p{n // 2},{'train' if n < 10 else 'test'},{n // 2 % 2}" for n in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["image_id,patient_id,split,Mass", *rows]) + "\n")
    (tmp_path / "scores.csv").write_text("image_id,Mass\n" + "".join(f"i{n},0.{n:02}\n" for n in range(20)))
    store, labels, scores = tmp_path / "store", tmp_path / "labels.csv", tmp_path / "scores.csv"
    uses = [
        lambda **how: cx.train_probe(store, labels, **how),
        lambda **how: cx.evaluate(scores, labels, **how),
        lambda **how: cx.compare(scores, scores, labels, **how),
        lambda **how: cx.report(scores, labels, out=tmp_path / "report.html", **how),
    ]
    for use in uses:
        with pytest.raises(CasesError, match="no image is in the split 'tset'; the splits are: test, train"):
            use(split="tset")
        with pytest.raises(CasesError, match="no finding Nodule; the findings are: Mass"):
            use(findings=["Nodule"])
    fill(tmp_path / "other", range(50, 60))
    with pytest.raises(CasesError, match="other and the labels have no image_id in common"):
        cx.report(scores, labels, out=tmp_path / "report.html", split="test", stores=[tmp_path / "other"], bootstraps=5)
    for use in (uses[1], uses[3]):
        for wrong in (0, 1, 2.0, {"Mass": 0}):
            with pytest.raises(cx.CxrEmbedError, match=r"`prevalence` is a part of 1, such as 0.02, and neither 0 nor"):
                use(prevalence=wrong)
