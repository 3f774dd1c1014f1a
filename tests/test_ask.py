"""`zeroshot --ask`: a question against its denial, the highest images first, judged where labels have the finding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import content, run_cli
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from cxr_embed import open_store
from cxr_embed.cli import app
from cxr_embed.manifest import read_labels
from cxr_embed.prompts import PromptError
from cxr_embed.prompts.questions import denial_of, prompts_of_questions, sets_with
from cxr_embed.screening import score_store
from cxr_embed.screening.question import answer, highest
from cxr_embed.store import Row, StoreWriter, add_prompts
from cxr_embed.types import EncoderSpec, TextRule

SPEC = EncoderSpec(
    name="toy-text",
    revision="1",
    preprocessing="none",
    outputs={"tokens": (6,)},
    text=TextRule("tokens", "siglip", 40.0, -3.0),
)
COUNT = 40
WORDS = ("pneumothorax", "no pneumothorax", "large heart", "normal heart")


def prompt_vectors() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((len(WORDS), 6)).astype(np.float32)


def image_vector(number: int) -> np.ndarray:
    # Two images of other files have one vector each: they score the same.
    return np.random.default_rng(number // 2).standard_normal(6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with prompts, and a manifest with pictures whose first two findings are labelled."""
    with StoreWriter(tmp_path / "store", SPEC, dtype="float32") as writer:
        for number in range(COUNT):
            row = Row(image_id=f"i{number:02}", patient_id=f"p{number // 4}", content=content(number))
            writer.add_vector(row, {"tokens": image_vector(number)})
        writer.flush("toy engine")
    add_prompts(tmp_path / "store", WORDS, prompt_vectors(), "toy")
    lines = ["image_id,path,patient_id,split,age,Pneumothorax,Heart"]
    for number in range(COUNT):
        name = f"i{number:02}"
        Image.fromarray(np.full((80, 80), number, np.uint8)).save(tmp_path / f"{name}.png")
        split = "test" if number // 4 % 2 else "train"
        lines.append(f"{name},{name}.png,p{number // 4},{split},4{number % 10},{number % 3 % 2},{number // 2 % 3 % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def plain_margin(positive: int, negative: int) -> np.ndarray:
    """Image by image, in the words of the help: scale times the difference of two cosines."""
    vectors = [image_vector(number).astype(np.float32).astype(float) for number in range(COUNT)]
    prompts = prompt_vectors().astype(float)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    return np.array([40 * (cosine(v, prompts[positive]) - cosine(v, prompts[negative])) for v in vectors])


@pytest.mark.parametrize(
    ("words", "denial"),
    [
        ("pneumothorax", "no pneumothorax"),
        ("a lung nodule", "no lung nodule"),
        ("The aorta is wide", "no aorta is wide"),
        ("no nodule", "nodule"),
        ("No Nodule", "Nodule"),
        ("without lines", "lines"),
        ("nodule", "no nodule"),
        ("another mass", "no another mass"),
    ],
)
def test_a_question_is_held_against_its_denial(words: str, denial: str) -> None:
    assert denial_of(words) == denial
    asked = prompts_of_questions([words])
    assert (asked.findings[0].positive, asked.findings[0].negative) == ((words,), (denial,))


def test_questions_name_findings_and_denials() -> None:
    asked = prompts_of_questions(["Effusion=pleural effusion", "big heart"], ["dry pleura", "normal heart"])
    told = [(f.name, f.positive, f.negative) for f in asked.findings]
    assert told[0] == ("Effusion", ("pleural effusion",), ("dry pleura",))
    assert told[1] == ("big heart", ("big heart",), ("normal heart",))


@pytest.mark.parametrize(
    ("questions", "against", "told"),
    [
        ([""], [], "`ask` is words"),
        (["="], [], "`ask` is words"),
        (["mass="], [], "`ask` is words"),
        (["mass"], [" "], "`against` of `ask` 'mass' is blank"),
        (["mass"], ["mass"], "both positive and negative"),
        (["mass\nedema"], [], "line break"),
        (["image_id"], [], "not image_id"),
        (["mass", "Mass"], [], "given twice"),
        (["mass", "edema"], ["no mass"], "given once for each `ask`, 2 times"),
    ],
)
def test_words_that_are_no_question_are_refused(questions: list[str], against: list[str], told: str) -> None:
    with pytest.raises(PromptError, match=told):
        prompts_of_questions(questions, against)


def test_sets_that_ask_with_more_words_are_named() -> None:
    assert "nih14" in sets_with(prompts_of_questions(["pneumothorax"]).findings[0])
    assert "nih14" in sets_with(prompts_of_questions(["large pleural effusion"]).findings[0])
    assert sets_with(prompts_of_questions(["swallowed coin"]).findings[0]) == []


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_highest_are_those_of_a_sort(values: list[int], k: int) -> None:
    ids = np.array([f"i{number * 7 % 31:02}" for number in range(len(values))])
    found = highest(np.array(values, np.float32), ids, k)
    plain = sorted(range(len(values)), key=lambda row: (-values[row], ids[row]))[:k]
    assert found.tolist() == plain


def test_answers_are_ranked_and_judged(folder: Path) -> None:
    store = open_store(folder / "store")
    asked = prompts_of_questions(["pneumothorax", "Heart=large heart"], ["no pneumothorax", "normal heart"])
    screening = score_store(store, asked, score="margin")
    known = read_labels(folder / "manifest.csv")
    answers, notes = answer(store, screening, 5, known=known, labels=known, split="test")
    labels = np.array([[number % 3 % 2, number // 2 % 3 % 2] for number in range(COUNT)])
    test = np.array([number // 4 % 2 == 1 for number in range(COUNT)])
    for number, (each, pair) in enumerate(zip(answers, ((0, 1), (2, 3)), strict=True)):
        plain = plain_margin(*pair)
        order = sorted(range(COUNT), key=lambda row: (-round(plain[row], 5), row))[:5]
        assert [case["image_id"] for case in each.cases] == [f"i{row:02}" for row in order]
        np.testing.assert_allclose([case["score"] for case in each.cases], plain[order], atol=1e-4)
        assert each.cases[0]["patient_id"] == f"p{order[0] // 4}"
        assert each.contents == tuple(content(row) for row in order)
        assert each.auroc is not None
        assert each.auroc.value is not None
        assert each.auroc.value == pytest.approx(roc_auc_score(labels[test, number], np.round(plain[test], 4)))
        assert each.auroc.low is not None
        assert each.auroc.low <= each.auroc.value <= (each.auroc.high or 0)
        assert (each.images, each.positives) == (int(test.sum()), int(labels[test, number].sum()))
    assert any("the score of the last one; shown by their ids" in note for note in notes)


def test_a_finding_that_is_not_labelled_is_listed_all_the_same(folder: Path) -> None:
    store = open_store(folder / "store")
    screening = score_store(store, prompts_of_questions(["large heart"], ["normal heart"]))
    labels = read_labels(folder / "manifest.csv")
    answers, notes = answer(store, screening, 3, labels=labels)
    assert answers[0].auroc is None
    assert len(answers[0].cases) == 3
    assert any("no AUROC of large heart: the labels' findings are Pneumothorax, Heart" in note for note in notes)


def test_labels_that_are_all_unknown_are_as_good_as_none(folder: Path) -> None:
    ids = "\n".join(f"i{number:02},,1" for number in range(COUNT))
    (folder / "labels.csv").write_text(f"image_id,Pneumothorax,Mass\n{ids}\n")
    done = run_cli("zeroshot", str(folder / "store"), "--ask", "pneumothorax", "--labels", str(folder / "labels.csv"))
    assert done.returncode == 0, done.stderr
    assert "the highest first" in done.stdout
    assert "note: no AUROC of pneumothorax: the labels: every label of the 40 images" in done.stdout


def test_lateral_views_among_the_answers_are_told(folder: Path) -> None:
    table = folder / "manifest.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head + ",view", *(f"{line},LL" for line in lines)]) + "\n")
    asked = ["zeroshot", str(folder / "store"), "--ask", "pneumothorax", "-k", "3", "--manifest", str(table)]
    assert "note: 3 lateral views among these cases (i" in run_cli(*asked).stdout
    assert any("3 lateral views" in note for note in json.loads(run_cli(*asked, "--json").stdout)["notes"])


def test_columns_without_room_are_told_once_by_what_holds_them(folder: Path) -> None:
    two = ["--ask", "pneumothorax", "--ask", "large heart", "--against", "no pneumothorax", "--against", "normal heart"]
    known = ["--manifest", str(folder / "manifest.csv")]
    done = CliRunner(env={"COLUMNS": "40"}).invoke(app, ["zeroshot", str(folder / "store"), *two, *known])
    assert done.exit_code == 0, done.output
    notes = [line for line in done.stdout.splitlines() if "no room here" in line]
    assert len(notes) == 1
    assert notes[0].endswith("no room here; --json lists them")  # the scores' file has none of them


def test_the_verb_as_typed(folder: Path) -> None:
    picture, scores = folder / "found.png", folder / "scores.csv"
    known = ["--manifest", str(folder / "manifest.csv")]
    files = ["--montage", str(picture), "--out", str(scores)]
    done = run_cli("zeroshot", str(folder / "store"), "--ask", "pneumothorax", "-k", "4", *known, *files)
    assert done.returncode == 0, done.stderr
    assert "margin of 'pneumothorax' against 'no pneumothorax', the highest first" in done.stdout
    assert "pneumothorax: AUROC 0." in done.stdout
    assert "(Pneumothorax)" in done.stdout
    assert "sets that ask with more: chexpert13, nih14" in done.stdout
    assert f"{picture}: 4 images" in done.stdout
    assert f"{scores}: {COUNT} images" in done.stdout
    assert Image.open(picture).size[0] > 500
    assert scores.read_text().splitlines()[0] == "image_id,pneumothorax"


def test_a_picture_of_several_questions_names_the_images_of_all(folder: Path) -> None:
    """`forget` finds a patient's pictures by it."""
    two = ["--ask", "pneumothorax", "--ask", "large heart", "-k", "3", "--against", "no pneumothorax"]
    picture, known = folder / "two.png", ["--manifest", str(folder / "manifest.csv")]
    words = ["zeroshot", str(folder / "store"), *two, "--against", "normal heart", *known, "--montage", str(picture)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    shown = [case["image_id"] for answer in json.loads(done.stdout)["answers"] for case in answer["images"]]
    with Image.open(picture) as image:
        assert json.loads(image.text["cxr_embed image_id"]) == list(dict.fromkeys(shown))  # type: ignore[attr-defined]


def test_a_program_reads_the_answer_without_labels(folder: Path) -> None:
    done = CliRunner().invoke(app, ["zeroshot", str(folder / "store"), "--ask", "pneumothorax", "-k", "2", "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["score"] == "margin"
    (only,) = told["answers"]
    assert (only["prompt"], only["against"], only["auroc"]) == ("pneumothorax", "no pneumothorax", None)
    assert [sorted(case) for case in only["images"]] == [["image_id", "patient_id", "score"]] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "needs --prompts SET, or --ask"),
        (["--prompts", "nih14"], "needs --out"),
        (["--prompts", "nih14", "--ask", "mass"], "not both"),
        (["--prompts", "nih14", "--out", "s.csv", "-k", "3"], "-k is for --ask"),
        (["--ask", "mass", "--report", "r.md"], "--report is for --prompts"),
        (["--ask", "mass", "--count-no-finding"], "--count-no-finding is for --prompts"),
        (["--ask", "mass", "-k", "0"], "at least 1"),
        (["--ask", "mass", "--split", "test"], "give `labels`"),
        (["--ask", "mass", "--montage", "m.png"], "needs --manifest"),
        (["--ask", "view"], "a finding named view"),
    ],
)
def test_options_that_do_not_go_together(folder: Path, words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["zeroshot", str(folder / "store"), *words])
    message = str(done.exception) if done.exit_code == 1 else done.stderr
    assert done.exit_code
    assert told in message
