"""Zero-shot: scores equal to loops that are obviously right, a report that names what is wrong, the verb as typed."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import content, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from cxr_embed import open_store
from cxr_embed.cases import CasesError, PatientsOf, Side
from cxr_embed.errors import EncoderError, ManifestError, StoreError
from cxr_embed.manifest import read_labels, read_manifest
from cxr_embed.metrics import Estimate
from cxr_embed.pipeline.embedding import embed
from cxr_embed.present.numbers import format_threshold
from cxr_embed.prompts import Finding, PromptError, PromptSet, load_prompt_set
from cxr_embed.screening import match_labels, screen
from cxr_embed.screening.finding_report import FindingReport, PairReport, Report
from cxr_embed.screening.report_tables import polarity
from cxr_embed.store import Row, StoreWriter, add_prompts, read_prompts
from cxr_embed.types import EncoderSpec, TextRule
from cxr_embed.zeroshot import Cosines, Scorer

ELIXR = TextRule("tokens", "elixr")
SPEC = EncoderSpec(
    name="toy-text", revision="1", preprocessing="none", outputs={"pooled": (4,), "tokens": (3, 8)}, text=ELIXR
)
MASS = Finding("Mass", ("mass", "large mass"), ("no mass", "clear"))
EDEMA = Finding("Edema", ("edema",), ("no edema", "clear"))
ASKED = PromptSet("toy", (MASS, EDEMA))


def plain_cosines(vectors: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """The rule as its authors' notebook has it: image by image, prompt by prompt, token by token."""
    result = np.empty((len(vectors), len(prompts)))
    for i, image in enumerate(vectors.astype(np.float64)):
        for p, prompt in enumerate(prompts.astype(np.float64)):
            result[i, p] = max(
                np.dot(token, prompt) / (np.linalg.norm(token) * np.linalg.norm(prompt))
                for token in np.atleast_2d(image)
            )
    return result


def plain_score(
    image: np.ndarray, finding: Finding, vectors: dict[str, np.ndarray], rule: TextRule, kind: str, ensemble: str
) -> float:
    """A finding's score of one image, in the words of the documentation."""

    def logit(vector: np.ndarray) -> float:
        return rule.scale * float(plain_cosines(image[None], vector[None])[0, 0]) + rule.bias

    def of_pair(positive: np.ndarray, negative: np.ndarray | None) -> float:
        if kind == "sigmoid":
            return 1 / (1 + math.exp(-logit(positive)))
        assert negative is not None
        if kind == "margin":
            return logit(positive) - logit(negative)
        odds = [math.exp(logit(positive)), math.exp(logit(negative))]
        return odds[0] / sum(odds)

    def mean(prompts: Sequence[str]) -> np.ndarray:
        return np.mean([vectors[prompt] / np.linalg.norm(vectors[prompt]) for prompt in prompts], axis=0)

    if ensemble == "vectors":
        return of_pair(mean(finding.positive), mean(finding.negative) if finding.negative else None)
    negatives: Sequence[str | None] = (None,) if kind == "sigmoid" else finding.negative
    scores = [
        of_pair(vectors[positive], None if negative is None else vectors[negative])
        for positive in finding.positive
        for negative in negatives
    ]
    return sum(scores) / len(scores)


def prompt_vectors(seed: int = 0, width: int = 8, asked: PromptSet = ASKED) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {prompt: (3 * rng.standard_normal(width)).astype(np.float32) for prompt in asked.prompts}


def image_vectors(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    lengths = rng.uniform(0.1, 5, (3, 1))
    return {"pooled": rng.standard_normal(4), "tokens": rng.standard_normal((3, 8)) * lengths}


def make_store(path: Path, count: int = 30, spec: EncoderSpec = SPEC, shard: int = 11, prompts: bool = True) -> Path:
    with StoreWriter(path, spec) as writer:
        for number in range(count):
            vectors = {name: image_vectors(number)[name] for name in spec.outputs}
            writer.add_vector(
                Row(image_id=f"i{number}", patient_id=f"p{number // 2}", content=content(number)), vectors
            )
            if writer.pending == shard:
                writer.flush("toy engine")
        writer.flush("toy engine")
    if prompts:
        vectors = prompt_vectors()
        add_prompts(path, list(vectors), np.stack(list(vectors.values())), "made by a test")
    return path


def write_prompts(folder: Path, asked: PromptSet = ASKED) -> Path:
    path = folder / "toy.yaml"
    lines = ["findings:"]
    for finding in asked.findings:
        positive, negative = ("[" + ", ".join(texts) + "]" for texts in (finding.positive, finding.negative))
        lines.append(f"  {finding.name}: {{positive: {positive}, negative: {negative}}}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_labels(path: Path, count: int = 30, header: str = "image_id,Mass,Edema") -> Path:
    """Labels of `count` images: Mass for every third, Edema unknown for every fourth."""
    rows = [f"i{n},{int(n % 3 == 0)},{'' if n % 4 == 0 else int(n % 5 == 0)}" for n in range(count)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# ---- cosines


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(32, 128), (3, 8), (16,), (5, 3)])
def test_cosines_are_those_of_the_plain_rule(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((23, *shape)) * rng.uniform(0.01, 9, (23, *shape[:-1], 1))).astype(dtype)
    prompts = (7 * rng.standard_normal((5, shape[-1]))).astype(np.float32)
    found = Cosines(prompts, shape, dtype)(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_cosines(vectors, prompts), rtol=0, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((70, 4, 6)).astype(np.float16)
    prompts = rng.standard_normal((3, 6)).astype(np.float32)
    whole = Cosines(prompts, (4, 6), "float16")(vectors)
    monkeypatch.setattr("cxr_embed.zeroshot._BLOCK_VALUES", 24 * 32)
    blocks = Cosines(prompts, (4, 6), "float16")
    np.testing.assert_allclose(blocks(vectors), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(blocks(vectors[:64]), whole[:64], rtol=0, atol=1e-6)
    assert blocks(vectors[:0]).shape == (0, 3)
    vectors.flags.writeable = False
    np.testing.assert_allclose(blocks(vectors[::2]), whole[::2], rtol=0, atol=1e-6)


ENGINE = Cosines(np.stack(list(prompt_vectors().values())), (3, 8), "float32")


@given(st.integers(0, 2**32), st.floats(0.001, 1000), st.permutations(range(3)))
@settings(max_examples=50, deadline=None)
def test_neither_length_nor_order_of_tokens_counts(seed: int, scale: float, order: list[int]) -> None:
    tokens = np.random.default_rng(seed).standard_normal((6, 3, 8)).astype(np.float32)
    scales = (scale * np.random.default_rng(seed + 1).uniform(0.5, 2, (6, 3, 1))).astype(np.float32)
    found = ENGINE(tokens)
    np.testing.assert_allclose(ENGINE(tokens * scales), found, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ENGINE(np.ascontiguousarray(tokens[:, order])), found, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ENGINE(np.ascontiguousarray(tokens[::-1]))[::-1], found, rtol=0, atol=2e-6)
    assert (abs(found) <= 1 + 1e-6).all()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_an_image_with_a_vector_without_direction_has_no_cosine(bad: float) -> None:
    tokens = np.random.default_rng(2).standard_normal((9, 3, 8)).astype(np.float32)
    tokens[4, 1] = bad
    found = ENGINE(tokens)
    assert np.isnan(found[4]).all()
    assert not np.isnan(np.delete(found, 4, axis=0)).any()


# ---- scores


@pytest.mark.parametrize("ensemble", ["scores", "vectors"])
@pytest.mark.parametrize("kind", ["margin", "softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        (ELIXR, (3, 8)),
        (TextRule("v", "clip", scale=100.0), (8,)),
        (TextRule("v", "siglip", scale=12.5, bias=-3.25), (8,)),
    ],
    ids=["elixr", "clip", "siglip"],
)
def test_scores_are_those_of_the_documentation(
    rule: TextRule, shape: tuple[int, ...], kind: str, ensemble: str
) -> None:
    vectors = prompt_vectors()
    images = np.random.default_rng(3).standard_normal((7, *shape)).astype(np.float32)
    scorer = Scorer(ASKED.findings, vectors, rule, kind, ensemble)  # type: ignore[arg-type]
    found = scorer.scores(Cosines(scorer.matrix, shape, "float32")(images))
    expected = [[plain_score(image, f, vectors, rule, kind, ensemble) for f in ASKED.findings] for image in images]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * rule.scale)


def test_the_rule_has_its_own_score_and_a_bias_is_kept() -> None:
    vectors = prompt_vectors()
    kinds = [Scorer(ASKED.findings, vectors, TextRule("v", kind)).kind for kind in ("elixr", "clip", "siglip")]  # type: ignore[arg-type]
    assert kinds == ["margin", "softmax", "softmax"]
    cosines = np.zeros((1, 6), np.float32)
    low = Scorer(ASKED.findings, vectors, TextRule("v", "siglip", 10.0, -10.0), "sigmoid").scores(cosines)
    assert low[0, 0] == pytest.approx(1 / (1 + math.exp(10)), rel=1e-5)


def test_pairs_and_their_scores_average_to_the_findings() -> None:
    scorer = Scorer(ASKED.findings, prompt_vectors(), ELIXR)
    cosines = np.random.default_rng(4).uniform(-1, 1, (5, 6)).astype(np.float32)
    assert scorer.pairs(0) == [
        ("mass", "no mass"),
        ("mass", "clear"),
        ("large mass", "no mass"),
        ("large mass", "clear"),
    ]
    singles = scorer.pair_scores(cosines, 0)
    np.testing.assert_allclose(singles.mean(axis=1), scorer.scores(cosines)[:, 0], rtol=1e-6)
    single = Scorer((Finding("Mass", ("large mass",), ("clear",)),), prompt_vectors(), ELIXR)
    own = single.scores(cosines[:, [scorer._column["large mass"], scorer._column["clear"]]])
    np.testing.assert_array_equal(own[:, 0], singles[:, 3])


def test_a_finding_without_a_denial() -> None:
    lonely = (MASS, Finding("Edema", ("edema",)), Finding("Hernia", ("hernia",)))
    vectors = prompt_vectors(asked=PromptSet("x", lonely))
    for kind in ("margin", "softmax", None):
        with pytest.raises(PromptError, match=r"no negative prompt: Edema, Hernia; .*sigmoid"):
            Scorer(lonely, vectors, ELIXR, kind)  # type: ignore[arg-type]
    for ensemble in ("scores", "vectors"):
        scorer = Scorer(lonely, vectors, ELIXR, "sigmoid", ensemble)  # type: ignore[arg-type]
        assert scorer.scores(np.zeros((2, len(scorer.matrix)), np.float32)).tolist() == [[0.5] * 3] * 2
        assert scorer.pairs(1) == [("edema", None)]


def test_prompts_that_cancel_and_unknown_words() -> None:
    vectors = prompt_vectors()
    vectors["large mass"] = -vectors["mass"]
    with pytest.raises(PromptError, match="Mass: its prompts' vectors cancel"):
        Scorer(ASKED.findings, vectors, ELIXR, ensemble="vectors")
    with pytest.raises(PromptError, match="`score` is margin, softmax, sigmoid, not 'prob'"):
        Scorer(ASKED.findings, vectors, ELIXR, "prob")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="`ensemble` is scores, vectors, not 'max'"):
        Scorer(ASKED.findings, vectors, ELIXR, ensemble="max")  # type: ignore[arg-type]


# ---- a store


def test_a_stores_scores_are_by_id_whatever_its_shards(tmp_path: Path) -> None:
    results = {}
    for shard in (4, 100):
        path = make_store(tmp_path / f"s{shard}", shard=shard)
        with StoreWriter(path, SPEC) as writer:
            # An image changes, and another id comes for known content.
            writer.add_vector(Row(image_id="i3", patient_id="p1", content=content(103)), image_vectors(103))
            writer.add_row(Row(image_id="copy", patient_id="p9", content=content(7)))
            writer.add_row(
                Row(image_id="broken", patient_id="p9", content=content(999), error_kind="truncated", error="cut")
            )
            writer.flush("toy engine")
        store = open_store(path)
        screening, _ = screen(store, ASKED)
        results[shard] = screening.scores
        stored = store.read(output="tokens").vectors
        vectors = dict(zip(read_prompts(store).prompts, read_prompts(store).vectors, strict=True))
        expected = [[plain_score(i, f, vectors, ELIXR, "margin", "scores") for f in ASKED.findings] for i in stored]
        np.testing.assert_allclose(screening.scores.values, expected, rtol=0, atol=1e-5)
        assert screening.scores.ids.tolist() == store.ids.tolist()
        by_id = dict(zip(screening.scores.ids.tolist(), screening.scores.values.tolist(), strict=True))
        assert by_id["copy"] == by_id["i7"]
        assert "broken" not in by_id
    np.testing.assert_allclose(results[4].values, results[100].values, rtol=0, atol=1e-6)


def test_mapped_vectors_are_those_that_are_read(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "s"))
    whole = store.read(output="tokens").vectors
    seen = np.zeros(len(store), int)
    for rows, places, vectors in store.mapped("tokens"):
        assert isinstance(vectors, np.memmap)
        np.testing.assert_array_equal(vectors[places], whole[rows])
        vectors[places] = 0  # the reader's own copy: the file stays
        seen[rows] += 1
    assert (seen == 1).all()
    np.testing.assert_array_equal(open_store(tmp_path / "s").read(output="tokens").vectors, whole)


class TextSide:
    """A text model: a prompt's vector is drawn from its letters."""

    engine = "numpy float32 cpu"
    spec = SPEC

    def __init__(self, bad: float | None = None) -> None:
        self.asked: list[str] = []
        self.bad = bad

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        return ()

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        self.asked += prompts
        vectors = [np.random.default_rng(list(prompt.encode())).standard_normal(8) for prompt in prompts]
        return np.stack(vectors).astype(np.float32) if self.bad is None else np.full((len(prompts), 8), self.bad)


def test_missing_prompts_are_embedded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_store(tmp_path / "s", prompts=False)
    add_prompts(path, ["mass"], np.ones((1, 8)), "imported")
    model = TextSide()
    calls = []
    monkeypatch.setattr(
        "cxr_embed.screening.scoring.load_text_encoder", lambda spec, **options: calls.append((spec, options)) or model
    )
    first, _ = screen(path, ASKED, weights="w", device="cpu")
    assert model.asked == ["large mass", "no mass", "clear", "edema", "no edema"]
    assert [options for _, options in calls] == [{"weights": "w", "device": "cpu"}]
    assert first.embedded == 5
    held = read_prompts(open_store(path))
    assert held.sources == ("imported", *["embedded by toy-text, numpy float32 cpu"] * 5)
    second, _ = screen(path, ASKED)
    assert len(calls) == 1
    assert second.embedded == 0
    np.testing.assert_array_equal(first.scores.values, second.scores.values)


def test_a_store_that_cannot_be_written_is_scored_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_store(tmp_path / "s", prompts=False)
    monkeypatch.setattr("cxr_embed.screening.scoring.load_text_encoder", lambda *_, **__: TextSide())
    with StoreWriter(path, SPEC):  # an embedding run goes on
        screening, _ = screen(path, ASKED)
    assert len(screening.scores.ids) == 30
    assert "are not kept: " in screening.notes[0]
    assert "another process is writing" in screening.notes[0]
    assert len(read_prompts(open_store(path))) == 0


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "not finite"), (0.0, "no direction")])
def test_a_text_model_that_answers_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float, words: str
) -> None:
    path = make_store(tmp_path / "s", prompts=False)
    monkeypatch.setattr("cxr_embed.screening.scoring.load_text_encoder", lambda *_, **__: TextSide(bad))
    with pytest.raises(StoreError, match=words):
        screen(path, ASKED)
    assert not (path / "prompts.arrow").exists()


def test_missing_prompts_without_a_model_are_named(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", prompts=False)
    with pytest.raises(EncoderError, match=r"no vector of 5 of 5 prompts \('mass', 'large mass', ...\)"):
        screen(path, PromptSet("toy", (MASS, Finding("Edema", ("edema",), ("clear",)))))


def test_no_model_is_loaded_for_prompts_that_cannot_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_store(tmp_path / "s", prompts=False)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("cxr_embed.screening.scoring.load_text_encoder", never)
    with pytest.raises(PromptError, match="no negative prompt: Mass"):
        screen(path, PromptSet("toy", (Finding("Mass", ("mass",)),)))
    labels = read_labels(write_labels(tmp_path / "l.csv", header="image_id,Nodule,Hernia"))
    with pytest.raises(CasesError, match="no finding in common"):
        screen(path, ASKED, labels=labels)


def test_vectors_without_direction_name_their_images(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", count=3)
    with StoreWriter(path, SPEC) as writer:
        writer.add_vector(
            Row(image_id="void", patient_id="p", content=content(50)),
            {"pooled": np.ones(4), "tokens": np.zeros((3, 8))},
        )
        writer.flush("toy engine")
    with pytest.raises(StoreError, match=r"1 image has a vector that is zero or not finite \(void\)"):
        screen(path, ASKED)
    with StoreWriter(path, SPEC) as writer:  # an old vector that no image has any more harms nobody
        writer.add_vector(Row(image_id="void", patient_id="p", content=content(51)), image_vectors(51))
        writer.flush("toy engine")
    assert len(screen(path, ASKED)[0].scores.ids) == 4


# ---- labels and report


def test_labels_are_joined_by_id_and_by_like_names(tmp_path: Path) -> None:
    table = tmp_path / "l.csv"
    table.write_text("image_id,split,pleural_effusion,MASS,Hernia\nb,test,1,0,1\nz,test,1,1,1\na,train,0,-1,0\n")
    side = Side(np.array(["a", "b", "c"]), "vectors", "vector")
    matched = match_labels(read_labels(table), side, ("Pleural Effusion", "Mass", "Edema"))
    assert matched.cases.ids.tolist() == ["a", "b"]
    np.testing.assert_array_equal(matched.cases.labels, [[0, np.nan], [1, 0]])
    assert matched.columns == ("pleural_effusion", "MASS", None)
    assert matched.labelled.tolist() == [True, True, False]
    assert matched.counts() == {
        "labelled_images": 2,
        "images_without_labels": 1,
        "labels_without_vectors": 1,
        "label_columns_without_prompts": ["Hernia"],
        "uncertain": 1,
        "blank": "unknown",
        "split": None,
    }
    test = match_labels(read_labels(table), side, ("Mass",), split="test", uncertain="positive")
    assert test.labelled.tolist() == [False, True, False]
    assert test.cases.uncertain == 0
    with pytest.raises(CasesError, match="no image is in the split 'val'; the splits are: test, train"):
        match_labels(read_labels(table), side, ("Mass",), split="val")
    with pytest.raises(CasesError, match=r"no image_id in common: 'x' in the store, 'b' in the labels"):
        match_labels(read_labels(table), Side(np.array(["x"]), "vectors", "vector"), ("Mass",))
    known = read_labels(_written(tmp_path / "k.csv", "image_id,patient_id,MASS\na,p,1\nb,q,1\nc,r,0\n"))
    others = [PatientsOf("the store", np.array(["x", "y", "z"]))]
    with pytest.raises(CasesError, match="3 images have one patient in the labels and another in the store, such as a"):
        match_labels(known, side, ("Mass",), patients=others)
    table.write_text("image_id,pleural_effusion,pleural effusion\na,1,0\n")
    with pytest.raises(CasesError, match="which is the prompts' Pleural Effusion"):
        match_labels(read_labels(table), side, ("Pleural Effusion",))


def test_labels_need_ids_only_and_are_checked_like_a_manifest(tmp_path: Path) -> None:
    labels = read_labels(write_labels(tmp_path / "l.csv"))
    assert labels.findings == ("Mass", "Edema")
    assert labels.column("patient_id").tolist() == [""] * 30
    (tmp_path / "bad.csv").write_text("image_id,Mass\na,2\na,1\n,0\n")
    with pytest.raises(ManifestError) as caught:
        read_labels(tmp_path / "bad.csv")
    assert len(caught.value.problems) == 3
    with pytest.raises(ManifestError, match="column image_id is missing"):
        read_labels(_written(tmp_path / "other.csv", "id,Mass\na,1\n"))
    with pytest.raises(ManifestError, match=r"none\.csv: no such file"):
        read_labels(tmp_path / "none.csv")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_report_counts_and_computes(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s", count=40)
    labels = read_labels(_written(tmp_path / "l.csv", write_labels(tmp_path / "x.csv").read_text() + "far,1,1\n"))
    screening, report = screen(path, ASKED, labels=labels, threshold="sensitivity=0.8", prevalence={"Mass": 0.02})
    scores = dict(zip(screening.scores.ids.tolist(), screening.scores.values, strict=True))
    mass, edema = report.findings
    assert (mass.images, mass.positives, edema.images) == (30, 10, 22)
    truth = np.array([n % 3 == 0 for n in range(30)])
    of_mass = np.array([scores[f"i{n}"][0] for n in range(30)])
    assert mass.auroc.value == pytest.approx(roc_auc_score(truth, of_mass))
    vectors = prompt_vectors()
    tokens = open_store(path).read([f"i{n}" for n in range(30)], output="tokens").vectors
    for pair, positive, negative in zip(
        mass.pairs, ["mass", "mass", "large mass", "large mass"], ["no mass", "clear"] * 2, strict=True
    ):
        cosines = plain_cosines(tokens, np.stack([vectors[positive], vectors[negative]]))
        assert (pair.positive, pair.negative) == (positive, negative)
        assert pair.auroc == pytest.approx(roc_auc_score(truth, cosines[:, 0] - cosines[:, 1]))
        assert pair.negative_higher == pytest.approx((cosines[truth, 1] > cosines[truth, 0]).mean())
    assert mass.point is not None
    flagged = of_mass >= mass.point.threshold
    assert mass.point.sensitivity == flagged[truth].mean() >= 0.8
    assert mass.point.specificity == (~flagged[~truth]).mean()
    assert mass.missed_per_1000 == pytest.approx(1000 * 0.02 * (1 - flagged[truth].mean()))
    assert mass.flags_per_1000 == pytest.approx(1000 * (0.02 * flagged[truth].mean() + 0.98 * flagged[~truth].mean()))
    assert (mass.prevalence, mass.prevalence_stated) == (0.02, True)
    assert (edema.prevalence, edema.prevalence_stated) == (edema.positives / 22, False)
    assert report.mean_auroc is not None
    assert report.mean_auroc.value == pytest.approx(np.mean([f.auroc.value for f in report.findings]))
    assert report.labels is not None
    assert report.labels["labels_without_vectors"] == 1
    assert report.labels["images_without_labels"] == 10
    told = "\n".join(report.warnings)
    for words in ("1 labelled id has no vector", "10 images have no label", "prevalence is the labels' own"):
        assert words in told
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ["patient_id", "Patient_ID", "split", "learned_from", "image_id"])
def test_a_finding_that_would_be_read_as_a_column_is_refused(name: str, tmp_path: Path) -> None:
    with StoreWriter(
        tmp_path / "s",
        EncoderSpec(name="t", revision="1", preprocessing="none", outputs={"v": (2,)}, text=TextRule("v", "clip")),
    ) as writer:
        writer.add_vector(Row(image_id="a", patient_id="p", content=content(0)), {"v": np.ones(2)})
        writer.flush("toy engine")
    with pytest.raises(PromptError, match=f"a finding named {name}, which is a column of score files"):
        screen(tmp_path / "s", PromptSet("x", (Finding(name, ("yes",), ("no",)),)))


def test_what_a_fault_of_polarity_means_is_told_of_those_that_there_are() -> None:
    def told(auroc: float, pair: float, higher: float) -> str:
        pairs = (PairReport("yes", "no", pair, None, higher), PairReport("aye", "nay", 0.9, None, 0.1))
        finding = FindingReport(
            name="Up",
            label="Up",
            images=9,
            positives=3,
            auroc=Estimate(auroc),
            pairs=pairs,
            polarity=("a fault",),
            point=None,
            prevalence=None,
            prevalence_stated=False,
            flags_per_1000=None,
            missed_per_1000=None,
        )
        report = Report(
            findings=(finding,), mean_auroc=finding.auroc, covered=1, rule=None, images=9, labels={}, warnings=()
        )
        return polarity(report)[-1]

    assert "swapped" not in told(0.8, 0.7, 0.6)
    assert "useless threshold" in told(0.8, 0.7, 0.6)
    for auroc, pair in ((0.4, 0.6), (0.6, 0.4)):
        assert "swapped" in told(auroc, pair, 0.1)
        assert "useless threshold" not in told(auroc, pair, 0.1)


@pytest.mark.parametrize(
    ("threshold", "told"),
    [(0.0, "0.0000"), (0.5, "0.5000"), (-0.0148, "-0.0148"), (0.00004, "4e-05"), (-0.0009, "-0.0009"), (1e-9, "1e-09")],
)
def test_a_threshold_is_told_from_zero(threshold: float, told: str) -> None:
    assert format_threshold(threshold) == told


def test_swapped_prompts_are_flagged_by_name(tmp_path: Path) -> None:
    path = tmp_path / "s"
    spec = EncoderSpec(
        name="toy-text", revision="1", preprocessing="none", outputs={"v": (2,)}, text=TextRule("v", "clip")
    )
    with StoreWriter(path, spec) as writer:
        for n in range(20):
            angle = (0.2 if n % 2 else 1.2) + n / 100
            writer.add_vector(
                Row(image_id=f"i{n}", patient_id=f"p{n}", content=content(n)),
                {"v": np.array([math.cos(angle), math.sin(angle)])},
            )
        writer.flush("toy engine")
    add_prompts(path, ["yes", "no", "aye"], np.array([[0, 1], [1, 0], [1, 0.1]]), "x")
    table = _written(tmp_path / "l.csv", "image_id,Up\n" + "".join(f"i{n},{int(n % 2)}\n" for n in range(20)))
    swapped = PromptSet("x", (Finding("Up", ("yes",), ("no",)),))
    _, report = screen(path, swapped, labels=read_labels(table))
    (up,) = report.findings
    assert up.auroc.value == 0
    assert "AUROC 0.000, under 0.5" in up.polarity
    assert any("'yes' / 'no' (100%)" in doubt for doubt in up.polarity)
    _, right = screen(path, PromptSet("x", (Finding("Up", ("no",), ("yes",)),)), labels=read_labels(table))
    assert right.findings[0].auroc.value == 1
    assert right.findings[0].polarity == ()
    mixed = PromptSet("x", (Finding("Up", ("aye", "yes"), ("no",)),))
    spread = screen(path, mixed, labels=read_labels(table))[1].findings[0].spread("auroc")
    assert spread == (0.0, 0.0)


def test_undefined_figures_stay_out_of_the_mean(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s")
    asked = PromptSet("toy", (*ASKED.findings, Finding("Hernia", ("mass",), ("clear",))))
    rows = "".join(f"i{n},{n % 2},1\n" for n in range(30))
    labels = read_labels(_written(tmp_path / "l.csv", f"image_id,Mass,Edema\n{rows}"))
    _, report = screen(path, asked, labels=labels, threshold="sensitivity=0.9")
    mass, edema, hernia = report.findings
    assert report.covered == 1
    assert report.mean_auroc is not None
    assert report.mean_auroc.value == mass.auroc.value
    assert mass.auroc.low is not None
    assert mass.auroc.low < mass.auroc.value < mass.auroc.high
    assert edema.auroc.reason == "all 30 labels are positive"
    assert hernia.auroc.reason == "the labels do not have it"
    assert hernia.point is None
    assert edema.flags_per_1000 is None
    assert "the labels do not have Hernia: no AUROC, and no part in the mean" in report.warnings
    assert "no AUROC, and no part in the mean: Edema (all 30 labels are positive)" in report.warnings
    blank = read_labels(_written(tmp_path / "b.csv", "image_id,Mass\ni1,\ni2,-1\n"))
    _, empty = screen(path, ASKED, labels=blank, threshold="sensitivity=0.9")
    assert empty.mean_auroc is not None
    assert (empty.mean_auroc.value, empty.covered) == (None, 0)
    assert empty.findings[0].auroc.reason == "no image has a label"


def test_without_labels_single_prompts_are_compared_with_the_whole(tmp_path: Path) -> None:
    _, report = screen(make_store(tmp_path / "s"), ASKED, threshold="flag-rate=0.1")
    mass = report.findings[0]
    assert report.labels is None
    assert all(-1 <= (pair.agreement or 9) <= 1 for pair in mass.pairs)
    assert mass.point is not None
    assert mass.point.flag_rate == pytest.approx(0.1)
    assert mass.point.sensitivity is None


def test_copies_of_a_file_are_counted(tmp_path: Path) -> None:
    path = make_store(tmp_path / "s")
    with StoreWriter(path, SPEC) as writer:
        writer.add_row(Row(image_id="copy", patient_id="p9", content=content(7)))
        writer.flush("toy engine")
    labels = read_labels(_written(tmp_path / "l.csv", "image_id,Mass\ni7,1\ncopy,1\ni2,0\n"))
    _, report = screen(path, ASKED, labels=labels)
    assert any("1 labelled image has the same file" in warning for warning in report.warnings)


# ---- the verb


def test_scores_come_as_csv_and_parquet(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    prompts = write_prompts(tmp_path)
    for out in ("scores.csv", "deep/scores.parquet"):
        done = run_cli("zeroshot", "s", "--prompts", str(prompts), "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "not a medical device" in done.stdout
    expected = screen(tmp_path / "s", ASKED)[0].scores
    rows = list(csv.reader((tmp_path / "scores.csv").open()))
    assert rows[0] == ["image_id", "Mass", "Edema"]
    assert [row[0] for row in rows[1:]] == expected.ids.tolist()
    np.testing.assert_array_equal(np.array([row[1:] for row in rows[1:]], np.float32), expected.values)
    table = pq.read_table(tmp_path / "deep" / "scores.parquet")
    assert table.column_names == ["image_id", "Mass", "Edema"]
    np.testing.assert_array_equal(np.stack([table["Mass"], table["Edema"]], axis=1), expected.values)
    assert table.schema.metadata[b"fingerprint"].decode() == SPEC.fingerprint
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_the_report_as_text_json_and_markdown(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    write_labels(tmp_path / "l.csv")
    command = ["zeroshot", "s", "--prompts", str(write_prompts(tmp_path)), "--out", "o.csv", "--labels", "l.csv"]
    text = run_cli(*command, "--report", "r.md", cwd=tmp_path)
    assert text.returncode == 0, text.stderr
    for words in ("AUROC", "mean of 2 of 2", "missed", "sensitivity of at least 0.95", "state --prevalence"):
        assert words in text.stdout
    assert max(map(len, text.stdout.split("thresholds")[0].splitlines())) <= 80
    told = json.loads(run_cli(*command, "--json", "--report", "r.json", cwd=tmp_path).stdout)
    assert told["report"]["goal"] == {"kind": "sensitivity", "value": 0.95}
    assert told["images"] == 30
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["findings"] == told["report"]["findings"]
    markdown = (tmp_path / "r.md").read_text()
    figure = next(f["auroc"] for f in told["report"]["findings"] if f["name"] == "Mass")
    assert f"| Mass | 30 | 10 | {figure:.3f}" in markdown
    assert "For research" in markdown
    rate = json.loads(
        run_cli(*command, "--json", "--flag-rate", "0.2", "--prevalence", "Mass=0.01", cwd=tmp_path).stdout
    )
    mass = rate["report"]["findings"][0]
    assert (mass["prevalence"], mass["prevalence_stated"]) == (0.01, True)
    assert mass["point"]["flag_rate"] <= 0.2


def test_a_column_that_is_no_finding_is_named(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    _written(tmp_path / "l.csv", "image_id,Mass,ward\ni1,1,west\ni2,0,east\n")
    command = ["zeroshot", "s", "--prompts", str(write_prompts(tmp_path)), "--out", "o.csv", "--labels", "l.csv"]
    refused = run_cli(*command, cwd=tmp_path)
    assert refused.returncode == 1
    assert "if ward is not a finding, name it with --extra" in refused.stderr
    assert run_cli(*command, "--extra", "ward", cwd=tmp_path).returncode == 0


def test_a_wide_terminal_gets_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "s")
    write_labels(tmp_path / "l.csv")
    monkeypatch.setenv("COLUMNS", "120")
    command = ["zeroshot", "s", "--prompts", str(write_prompts(tmp_path)), "--out", "o.csv", "--labels", "l.csv"]
    heads = [line for line in run_cli(*command, cwd=tmp_path).stdout.splitlines() if line.startswith("finding")]
    assert len(heads) == 1
    assert "AUROC" in heads[0]
    assert "threshold" in heads[0]


def test_no_framework_of_a_model_is_loaded(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    code = (
        "import sys; sys.argv[1:] = ['zeroshot', 's', '--prompts', 'toy.yaml', '--out', 'o.csv']; "
        "from cxr_embed.cli import app; app(standalone_mode=False); "
        "sys.exit(bool({'torch', 'tensorflow', 'transformers', 'timm'} & set(sys.modules)))"
    )
    write_prompts(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["none", "--prompts", "nih14", "--out", "o.csv"], 1, "no store here"),
        (["s", "--prompts", "nih41", "--out", "o.csv"], 1, "did you mean nih14"),
        (["s", "--prompts", "nih14", "--out", "o.csv"], 1, "toy-text embeds no prompts|no encoder is named"),
        (["s", "--prompts", "toy.yaml", "--out", "o.txt"], 1, ".csv or .parquet"),
        (["s", "--prompts", "toy.yaml", "--out", "toy.yaml/o.csv"], 1, "is not a folder"),
        (["s", "--prompts", "toy.yaml", "--out", "o.csv", "--score", "prob"], 2, "'prob' is not one of 'margin'"),
        (["s", "--prompts", "toy.yaml", "--out", "o.csv", "--labels", "none.csv"], 1, "no such file"),
        (
            ["s", "--prompts", "toy.yaml", "--out", "o.csv", "--labels", "l.csv", "--split", "test"],
            1,
            "splits are: none",
        ),
        (
            ["s", "--prompts", "toy.yaml", "--out", "o.csv", "--threshold", "youden"],
            1,
            "--threshold youden needs --labels",
        ),
        (
            ["s", "--prompts", "toy.yaml", "--out", "o.csv", "--threshold", "flag-rate=10"],
            1,
            "or a number, not",
        ),
        (["s", "--prompts", "toy.yaml", "--out", "o.csv", "--prevalence", "0.1"], 2, "give --labels too"),
        (
            ["s", "--prompts", "toy.yaml", "--out", "o.csv", "--labels", "l.csv", "--prevalence", "Hernia=0.1"],
            1,
            "--prevalence Hernia=0.1: no such finding; the findings are Mass, Edema",
        ),
        (
            ["s", "--prompts", "toy.yaml", "--out", "o.csv", "--labels", "l.csv", "--prevalence", "often"],
            2,
            "not 'often'",
        ),
        (["s", "--prompts", "toy.yaml", "--out", "o.csv", "--report", "r.txt"], 2, ".md or .json"),
        (["plain", "--prompts", "toy.yaml", "--out", "o.csv"], 1, "no prompt can be compared"),
        (["empty", "--prompts", "toy.yaml", "--out", "o.csv"], 1, "no image with a vector"),
    ],
)
def test_mistakes_are_answered_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    make_store(tmp_path / "s")
    make_store(
        tmp_path / "plain",
        spec=EncoderSpec(name="plain", revision="1", preprocessing="none", outputs=SPEC.outputs),
        prompts=False,
    )
    make_store(tmp_path / "empty", count=0, prompts=False)
    write_prompts(tmp_path)
    write_labels(tmp_path / "l.csv")
    before = sorted(tmp_path.rglob("*"))
    done = run_cli("zeroshot", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert done.stderr.startswith("error: ")
    assert any(word in done.stderr for word in words.split("|")), done.stderr
    assert done.stderr.count("\n") <= 3
    assert sorted(tmp_path.rglob("*")) == before


# ---- real radiographs


def test_real_radiographs_from_tokens_to_report(real_data: Path, tmp_path: Path) -> None:
    """Tokens are patches of the picture, the prompts bright and dark patches: scores that plain NumPy can tell."""
    manifest = read_manifest(real_data / "nih" / "manifest.csv")
    spec = EncoderSpec(
        name="patches", revision="1", preprocessing="4 x 4 patches of 8 x 8", outputs={"tokens": (16, 64)}, text=ELIXR
    )
    tokens, asked = {}, load_prompt_set("nih14")
    with StoreWriter(tmp_path / "s", spec) as writer:
        for number, (image_id, path, patient) in enumerate(manifest.rows()):
            if number % 6:
                continue
            picture = np.asarray(Image.open(manifest.root / path).convert("L").resize((32, 32)), np.float32) - 128
            tokens[image_id] = picture.reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 64).astype(np.float16)
            writer.add_vector(
                Row(image_id=image_id, patient_id=patient, content=content(number)), {"tokens": tokens[image_id]}
            )
        writer.flush("numpy")
    vectors = prompt_vectors(width=64, asked=asked)
    add_prompts(tmp_path / "s", list(vectors), np.stack(list(vectors.values())), "made by a test")
    table = real_data / "nih" / "manifest.csv"
    command = ["--prompts", "nih14", "--labels", str(table), "--split", "test", "--json"]
    done = run_cli("zeroshot", "s", *command, "--out", "scores.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = {row["image_id"]: row for row in csv.DictReader((tmp_path / "scores.csv").open())}
    assert set(rows) == set(tokens)
    for image_id in list(tokens)[:3]:
        for finding in asked.findings:
            expected = plain_score(tokens[image_id], finding, vectors, ELIXR, "margin", "scores")
            assert float(rows[image_id][finding.name]) == pytest.approx(expected, abs=1e-5)
    truth = {row["image_id"]: row for row in csv.DictReader(table.open()) if row["split"] == "test"}
    both = [image_id for image_id in rows if image_id in truth]
    for finding in told["report"]["findings"]:
        labels = [int(truth[image_id][finding["name"]]) for image_id in both]
        assert (finding["images"], finding["positives"]) == (len(both), sum(labels))
        if 0 < sum(labels) < len(labels):
            scores = [float(rows[image_id][finding["name"]]) for image_id in both]
            assert finding["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        else:
            assert finding["auroc"] is None
            assert finding["auroc_undefined"]


def test_prompts_of_a_checkpoint_on_real_radiographs(real_data: Path, tmp_path: Path) -> None:
    """Embedded, then screened: the scores are those of the model's own logits. Then the same without the model."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'cxr-embed[torch]'")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
    from tiny_checkpoints import save_dual

    model = tmp_path / "model"
    save_dual(model, "siglip")
    asked = PromptSet("own", (Finding("Effusion", ("large pleural effusion", "effusion"), ("no pleural effusion",)),))
    prompts = write_prompts(tmp_path, asked)
    table = str(real_data / "nih" / "manifest.csv")
    encoder = ["--encoder", "hf:tiny", "--weights", str(model), "--dtype", "float32", "--precision", "float32"]
    embedded = run_cli("embed", table, *encoder, "--limit", "12", "--store", "s", cwd=tmp_path)
    assert embedded.returncode == 0, embedded.stderr
    command = ["zeroshot", "s", "--prompts", str(prompts), "--out", "o.csv", "--labels", table, "--json"]
    lost = run_cli(*command, "--weights", str(tmp_path), cwd=tmp_path)
    assert lost.returncode == 1
    assert "holds no vector of 3 of 3 prompts" in lost.stderr
    assert not (tmp_path / "o.csv").exists()
    done = run_cli(*command, "--weights", str(model), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prompts_embedded"] == 3
    assert json.loads(done.stdout)["score"] == "softmax"

    store = open_store(tmp_path / "s")
    whole = transformers.AutoModel.from_pretrained(model).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(model)(
        list(asked.prompts), return_tensors="pt", padding="max_length", max_length=12
    )["input_ids"]
    with torch.no_grad():
        words = torch.nn.functional.normalize(whole.get_text_features(input_ids=tokens).pooler_output)
        pictures = torch.nn.functional.normalize(torch.from_numpy(store.read().vectors))
        logits = pictures @ words.T * whole.logit_scale.exp() + whole.logit_bias
    pairs = [torch.softmax(logits[:, [positive, 2]], dim=1)[:, 0] for positive in (0, 1)]
    expected = torch.stack(pairs).mean(dim=0).numpy()
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert [row["image_id"] for row in rows] == store.ids.tolist()
    np.testing.assert_allclose([float(row["Effusion"]) for row in rows], expected, rtol=0, atol=1e-5)

    before = (tmp_path / "o.csv").read_bytes()
    model.rename(tmp_path / "gone")
    again = run_cli(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["prompts_embedded"] == 0
    assert (tmp_path / "o.csv").read_bytes() == before


def test_prompts_that_were_cut_are_told_in_each_run(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    embed(make_images(3), "mini", tmp_path / "s", outputs=["features", "contrastive"], device="cpu")
    long = "effusion " + "lung " * 200
    prompts = tmp_path / "p.yaml"
    prompts.write_text(
        "title: t\nsources: [x]\nfindings:\n  Effusion:\n"
        f"    positive: ['{long}', effusion]\n    negative: [no effusion]\n"
    )
    command = ("zeroshot", str(tmp_path / "s"), "--prompts", str(prompts), "--out", str(tmp_path / "out.csv"), "--json")
    assert run_cli(*command).returncode == 1
    for cut in (("--cut-prompts",), ()):  # the second finds the vector in the store
        done = run_cli(*command, *cut)
        assert done.returncode == 0, done.stderr
        (note,) = json.loads(done.stdout)["notes"]
        assert note.startswith("only the beginning of 1 of 3 prompts was read, the first 'effusion lung")


def test_earlier_spellings_of_a_threshold_work_and_say_so(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    write_prompts(tmp_path)
    write_labels(tmp_path / "l.csv")
    command = ("zeroshot", "s", "--prompts", "toy.yaml", "--out", "o.csv", "--labels", "l.csv", "--bootstraps", "20")
    for option, value in (("sensitivity", "0.8"), ("flag-rate", "0.2")):
        now = run_cli(*command, "--threshold", f"{option}={value}", "--json", cwd=tmp_path)
        then = run_cli(*command, f"--{option}", value, "--json", cwd=tmp_path)
        assert (now.returncode, then.returncode) == (0, 0), then.stderr
        assert then.stdout == now.stdout
        assert f"note: --{option} is --threshold {option}={value} now, and goes in 0.4\n" in then.stderr
    both = run_cli(*command, "--sensitivity", "0.8", "--flag-rate", "0.2", cwd=tmp_path)
    assert both.returncode == 2
    assert "one threshold cannot be chosen twice" in both.stderr
