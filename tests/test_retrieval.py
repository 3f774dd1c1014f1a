"""Retrieval evaluated: figures against plain loops, neighbours against brute force, the verb as typed."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from index_world import make_index, make_store
from sklearn.metrics import ndcg_score, roc_auc_score

from cxr_embed import open_store
from cxr_embed.cases import CasesError
from cxr_embed.errors import CaseIndexError, CxrEmbedError
from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import read_labels
from cxr_embed.metrics.retrieval import chance, means_by_patient, ndcg_at, precision_at, recall_at, votes
from cxr_embed.retrieval import RetrievalReport, evaluate_retrieval
from cxr_embed.retrieval.neighbours import Pool, nearest

CASES, PATIENTS = 90, 40


def world(seed: int = 0) -> tuple[np.ndarray, list[str], dict[str, list[str]]]:
    """Vectors that know a little of two findings, one of them unknown at times; patients with one to six images."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(CASES, 6)).astype(np.float32)
    patients = np.sort(rng.integers(0, PATIENTS, CASES))
    vectors += rng.normal(size=(PATIENTS, 6)).astype(np.float32)[patients]
    effusion = rng.random(CASES) < 0.4
    vectors[:, 0] += 5 * effusion
    mass = np.where(rng.random(CASES) < 0.2, "", (vectors[:, 1] > 0.8).astype(int).astype(str))
    mass[7] = "-1"
    columns = {
        "split": ["test" if patient % 3 == 0 else "train" for patient in patients],
        "view": [("PA", "AP", "")[int(v)] for v in rng.choice(3, CASES, p=[0.5, 0.4, 0.1])],
        "Effusion": effusion.astype(int).astype(str).tolist(),
        "Mass": mass.tolist(),
    }
    return vectors, [f"p{patient}" for patient in patients], columns


def by_loops(index: CaseIndex, name: str, k: int, queries: list[int], cases: list[int]) -> dict[str, Any]:
    """Precision, nDCG, chance and votes of one finding by plain Python."""
    label = [row.as_py() for row in index.table[name]]
    owner = index.patient_ids.tolist()
    found: dict[str, list[Any]] = {"precision": [], "ndcg": [], "base": [], "truth": [], "vote": []}
    for query in queries:
        if label[query] is None:
            continue
        pool = [row for row in cases if label[row] is not None and owner[row] != owner[query]]
        similarity = {row: float(np.dot(index.vectors[query], index.vectors[row])) for row in pool}
        nearest_rows = sorted(pool, key=lambda row: (-similarity[row], row))[:k]
        weights = [max(similarity[row], 0) for row in nearest_rows]
        found["truth"].append(label[query])
        found["vote"].append(sum(w * label[row] for w, row in zip(weights, nearest_rows, strict=True)) / sum(weights))
        if label[query] != 1:
            continue
        gains = [label[row] / math.log2(rank + 2) for rank, row in enumerate(nearest_rows)]
        relevant = sum(label[row] for row in pool)
        best = sum(1 / math.log2(rank + 2) for rank in range(min(k, relevant)))
        found["precision"].append(sum(label[row] for row in nearest_rows) / k)
        found["ndcg"].append(sum(gains) / best)
        found["base"].append(relevant / len(pool))
    return found


def test_figures_of_one_query_are_plain_ones() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        count, k = int(rng.integers(3, 12)), int(rng.integers(1, 4))
        truth = rng.integers(0, 2, count)
        scores = rng.permutation(count).astype(float)
        hits = truth[np.argsort(-scores)][None, :k].astype(float)
        relevant = np.array([truth.sum()])
        assert precision_at(hits, k)[0] == pytest.approx(hits.mean())
        if truth.any():
            assert ndcg_at(hits, relevant, k)[0] == pytest.approx(ndcg_score(truth[None], scores[None], k=k))
            assert recall_at(hits, relevant, k)[0] == pytest.approx(hits.sum() / truth.sum())
        else:
            assert np.isnan(ndcg_at(hits, relevant, k)[0])
            assert np.isnan(recall_at(hits, relevant, k)[0])


def test_chance_is_the_mean_over_all_orders() -> None:
    truth, k = [1, 1, 0, 0, 0, 1], 3
    orders = np.array(list(itertools.permutations(truth)), dtype=float)
    relevant = np.full(len(orders), 3)
    blind = chance(np.array([3]), np.array([6]), k)
    assert blind["precision"][0] == pytest.approx(precision_at(orders, k).mean())
    assert blind["ndcg"][0] == pytest.approx(ndcg_at(orders, relevant, k).mean())
    assert blind["recall"][0] == pytest.approx(recall_at(orders, relevant, k).mean())


def test_what_is_not_defined_is_nan() -> None:
    short = np.array([[1.0, np.nan]])
    assert np.isnan(precision_at(short, 2)[0])
    assert np.isnan(ndcg_at(short, np.array([1]), 2)[0])
    assert np.isnan(chance(np.array([1]), np.array([1]), 2)["precision"][0])
    assert np.isnan(chance(np.array([0]), np.array([5]), 2)["ndcg"][0])
    assert np.isnan(votes(np.array([[np.nan]]), np.array([[np.nan]]))[0])


def test_votes_are_weighted_by_similarity_and_negative_ones_have_none() -> None:
    hits = np.array([[1.0, 0, 1], [1, 0, np.nan], [1, 0, 0]])
    similarity = np.array([[0.8, 0.4, -0.9], [0.5, 0.5, np.nan], [-0.1, -0.2, -0.3]])
    assert votes(hits, similarity).tolist() == pytest.approx([0.8 / 1.2, 0.5, 1 / 3])


def test_means_weigh_queries_and_draw_patients() -> None:
    values = np.array([[1.0], [0.0], [1.0], [np.nan], [1.0]])
    patients = np.array([0, 0, 1, 2, 3])
    (found,) = means_by_patient([values], [patients], "part", 2000, (0,))
    assert found.value == pytest.approx(0.75)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 0.75 < found.high < 1
    (both,) = means_by_patient([values, np.zeros((2, 1))], [patients, np.array([3, 4])], "part", 2000, (0,))
    assert both.value == pytest.approx(0.375)


def test_an_interval_widens_with_the_images_of_each_patient() -> None:
    rng = np.random.default_rng(2)
    values = np.repeat(rng.random((60, 1)), 4, axis=0)
    alone = means_by_patient([values], [np.arange(240)], "part", 2000, (0,))[0]
    clustered = means_by_patient([values], [np.repeat(np.arange(60), 4)], "part", 2000, (0,))[0]
    widths = [found.high - found.low for found in (alone, clustered)]  # type: ignore[operator]
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.1)


def test_a_single_patient_has_no_interval_and_none_has_no_mean() -> None:
    (found,) = means_by_patient([np.array([[1.0], [0.0]])], [np.array([3, 3])], "part", 100, (0,))
    assert (found.value, found.low) == (0.5, None)
    assert "single patient" in found.reason
    assert means_by_patient([np.empty((0, 2))], [np.empty(0, np.int64)], "part", 100, (0,))[1].value is None
    assert means_by_patient([np.full((2, 1), np.nan)], [np.array([0, 1])], "part", 100, (0,))[0].value is None


def test_a_mean_over_findings_has_no_interval_where_one_is_of_a_single_patient() -> None:
    rng = np.random.default_rng(0)
    common, rare, twice = rng.random((40, 1)), rng.random((3, 1)), rng.random((3, 1))
    owners = np.arange(40)
    (found,) = means_by_patient([common, rare], [owners, np.array([40, 40, 40])], "part", 100, (0,))
    assert (found.value, found.low) == (pytest.approx((common.mean() + rare.mean()) / 2), None)
    assert "a finding of a single patient" in found.reason
    (found,) = means_by_patient([common, twice], [owners, np.array([40, 41, 41])], "part", 100, (0,))
    assert found.low is not None


def test_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        chances = rng.beta(3, 7, 40)
        patients = np.repeat(np.arange(40), rng.integers(1, 5, 40))
        values = rng.binomial(5, chances[patients])[:, None] / 5
        (found,) = means_by_patient([values], [patients], "part", 200, (seed,))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    assert 0.9 <= held / 200 <= 0.99


@pytest.mark.parametrize("block", [1 << 23, 250])
def test_neighbours_are_brute_force_with_copies_in_a_drawn_order(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_embed.retrieval.neighbours._BLOCK_VALUES", block)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    vectors[40:] = vectors[:20]
    index = make_index(tmp_path, vectors)
    cases = np.sort(rng.choice(60, 50, replace=False))
    patients, queries = rng.integers(0, 12, 50), np.arange(0, 50, 2)
    pools = [Pool(rng.random(50) < 0.7, others_only=True), Pool(np.ones(50, bool), others_only=False)]
    for pool, found in zip(pools, nearest(index, cases, queries, patients, pools, 7), strict=True):
        for place, query in enumerate(queries.tolist()):
            allowed = [
                row
                for row in range(50)
                if row != query and pool.cases[row] and not (pool.others_only and patients[row] == patients[query])
            ]
            similar = np.vecdot(index.vectors[cases[allowed]], index.vectors[cases[query]])
            rows = found.rows[place]
            assert len(set(rows.tolist())) == 7
            assert set(rows.tolist()) <= set(allowed)
            np.testing.assert_allclose(found.similarity[place], np.sort(similar)[::-1][:7], atol=1e-6)
            again = np.vecdot(index.vectors[cases[rows]], index.vectors[cases[query]])
            np.testing.assert_allclose(again, found.similarity[place], atol=1e-7)
            assert pool.sizes(np.ones(50, bool), np.array([query]), patients)[0] == len(allowed)


def test_equals_count_by_all_their_orders(tmp_path: Path) -> None:
    # Few different vectors, so that most neighbours are equally similar: every order of the rows, taken in turn.
    rng = np.random.default_rng(3)
    kinds = rng.normal(size=(2, 3)).astype(np.float32)
    which, label = rng.integers(0, 2, 6), [1, 1, 0, 1, 0, 0]
    patients = ["a", "a", "b", "c", "d", "e"]
    index = make_index(
        tmp_path, kinds[which], patients, columns={"Mass": list(map(str, label)), "view": ["PA", "AP"] * 3}
    )
    found = evaluate_retrieval([index], ks=(1, 2, 3), bootstraps=0).indexes[0]
    similar = {(a, b): float(which[a] == which[b]) for a, b in itertools.permutations(range(6), 2)}
    precision, ndcg, view = np.zeros((3, 720, 6, 3))
    for number, order in enumerate(itertools.permutations(range(6))):
        for query in range(6):
            pool = [row for row in order if patients[row] != patients[query]]
            near = sorted(pool, key=lambda row: -similar[query, row])
            relevant = sum(label[row] for row in pool)
            for place, k in enumerate((1, 2, 3)):
                precision[number, query, place] = np.mean([label[row] for row in near[:k]])
                gains = sum(label[row] / math.log2(rank + 2) for rank, row in enumerate(near[:k]))
                ndcg[number, query, place] = gains / sum(1 / math.log2(r + 2) for r in range(min(k, relevant)))
                view[number, query, place] = np.mean([row % 2 == query % 2 for row in near[:k]])
    asks = [row for row in range(6) if label[row]]
    figures = found.findings[0].figures
    assert [at.figure.value for at in figures.precision] == pytest.approx(precision.mean(0)[asks].mean(0).tolist())
    assert [at.figure.value for at in figures.ndcg] == pytest.approx(ndcg.mean(0)[asks].mean(0).tolist())
    assert [at.figure.value for at in found.same_view.at] == pytest.approx(view.mean(0).mean(0).tolist())
    own = [similar[0, 1], similar[1, 0]]
    least = [sum(similar[query, row] for row in range(6) if row != query) for query in (0, 1)]
    expected = np.mean([1 / n if same else 0 for same, n in zip(own, least, strict=True)])
    assert found.same_patient.at[0].figure.value == pytest.approx(expected if all(own) else 0)


@pytest.mark.parametrize("noise", [0, 1e-5])
def test_vectors_that_are_all_alike_find_what_blind_draws_find(noise: float, tmp_path: Path) -> None:
    vectors = np.ones((200, 8), np.float32) + noise * np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    labels = ["1"] * 50 + ["0"] * 150
    index = make_index(tmp_path, vectors, [f"p{n}" for n in range(200)], columns={"Mass": labels})
    report = evaluate_retrieval([index], ks=(5,), bootstraps=0)
    at, vote = report.indexes[0].findings[0].figures.precision[0], report.indexes[0].mean_vote.value
    assert vote is not None
    assert 0.35 < vote < 0.65
    assert at.figure.value == pytest.approx(49 / 199)
    assert at.lift == pytest.approx(1)
    assert any("all 200 vectors are" in note and "tell no image from another" in note for note in report.notes)


def test_an_index_of_vectors_that_are_all_alike_is_told(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store", np.ones((30, 4), np.float32), ["p"] * 30))
    (note,) = build_index(store, tmp_path / "index").notes
    assert note.startswith("all 30 vectors are equal: they tell no image from another")


def test_fewer_cases_than_k_leave_blanks(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(3, dtype=np.float32))
    (found,) = nearest(index, np.arange(3), np.arange(3), np.arange(3), [Pool(np.ones(3, bool), True)], 5)
    assert (found.rows >= 0).sum(axis=1).tolist() == [2, 2, 2]
    assert np.isnan(found.similarity[:, 2:]).all()


@pytest.mark.parametrize("splits", [(None, None), ("test", "train")])
def test_evaluation_is_plain_loops(tmp_path: Path, splits: tuple[str | None, str | None]) -> None:
    vectors, patients, columns = world()
    index = make_index(tmp_path, vectors, patients, columns)
    report = evaluate_retrieval([index], ks=(5, 3), split_queries=splits[0], split_cases=splits[1], bootstraps=50)
    assert report.ks == (3, 5)
    rows = [[row for row in range(CASES) if split in (None, columns["split"][row])] for split in splits]
    means = []
    for finding in report.indexes[0].findings:
        for place, k in enumerate((3, 5)):
            plain = by_loops(index, finding.name, k, *rows)
            precision, ndcg = finding.figures.precision[place], finding.figures.ndcg[place]
            assert precision.figure.value == pytest.approx(np.mean(plain["precision"]))
            assert precision.chance == pytest.approx(np.mean(plain["base"]))
            assert ndcg.figure.value == pytest.approx(np.mean(plain["ndcg"]))
        means.append(np.mean(plain["precision"]))
        assert finding.figures.queries == len(plain["precision"])
        assert finding.vote.value == pytest.approx(roc_auc_score(plain["truth"], plain["vote"]))
        assert finding.voters == len(plain["truth"])
    assert report.indexes[0].mean.precision[1].figure.value == pytest.approx(np.mean(means))


def test_patients_and_views_are_plain_loops(tmp_path: Path) -> None:
    vectors, patients, columns = world()
    index = make_index(tmp_path, vectors, patients, columns)
    report = evaluate_retrieval([index], ks=(4,), bootstraps=50)
    similar = index.vectors @ index.vectors.T
    np.fill_diagonal(similar, -2)
    recalls, same_view = [], []
    for query in range(CASES):
        others = [row for row in range(CASES) if patients[row] == patients[query] and row != query]
        if others:
            recalls.append(len(set(np.argsort(-similar[query])[:4].tolist()) & set(others)) / len(others))
        if columns["view"][query]:
            pool = [row for row in range(CASES) if columns["view"][row] and patients[row] != patients[query]]
            best = sorted(pool, key=lambda row: -similar[query][row])[:4]
            same_view.append(np.mean([columns["view"][row] == columns["view"][query] for row in best]))
    found = report.indexes[0]
    assert found.same_patient.at[0].figure.value == pytest.approx(np.mean(recalls))
    assert found.same_patient.queries == len(recalls)
    assert found.same_patient.at[0].chance == pytest.approx(4 / (CASES - 1))
    assert found.same_view.at[0].figure.value == pytest.approx(np.mean(same_view))
    for finding in found.findings:
        parts = [finding.by_view[view].queries for view in ("AP", "PA")]
        unknown = sum(
            not view and value == "1" for view, value in zip(columns["view"], columns[finding.name], strict=True)
        )
        assert sum(parts) + unknown == finding.figures.queries
    label, views = index.table["Effusion"].to_pylist(), columns["view"]
    base = []
    for query in range(CASES):
        if views[query] == "PA" and label[query] == 1:
            pool = [row for row in range(CASES) if views[row] == "PA" and patients[row] != patients[query]]
            base.append(np.mean([label[row] for row in pool]))
    assert found.findings[0].by_view["PA"].in_view == pytest.approx(np.mean(base))


def test_a_finding_that_has_no_figure_is_told_and_not_in_the_mean(tmp_path: Path) -> None:
    vectors, patients, columns = world()
    nothing, once = ["0"] * CASES, ["0"] * CASES
    once[5] = "1"
    index = make_index(tmp_path, vectors, patients, {**columns, "Hernia": nothing, "Edema": once})
    report = evaluate_retrieval([index], ks=(3,), bootstraps=20)
    found = report.indexes[0]
    assert found.covered[""] == 2
    by_name = {finding.name: finding for finding in found.findings}
    assert by_name["Hernia"].figures.precision[0].figure.value is None
    # The only image that shows it has nobody of another patient to find.
    assert by_name["Edema"].figures.precision[0].figure.value is None
    told = next(note for note in report.notes if note.startswith("not defined"))
    assert "Hernia (no query)" in told
    assert "Edema (nothing can be found, or fewer than 3 images)" in told
    two = evaluate_retrieval([index], findings=["effusion", "Mass"], ks=(3,), bootstraps=20).indexes[0]
    assert found.mean.precision[0].figure.value == two.mean.precision[0].figure.value


def test_an_index_compared_with_itself_differs_by_nothing(tmp_path: Path) -> None:
    vectors, patients, columns = world()
    index = make_index(tmp_path, vectors, patients, columns)
    (difference,) = evaluate_retrieval([index, index], ks=(5,), bootstraps=50).differences
    assert [value[0].value for value in difference.precision.values()] == [0, 0]
    assert difference.same_patient[0].value == 0
    assert difference.votes is not None
    assert difference.votes.mean_auroc.difference.value == 0


def test_differences_are_of_the_common_images(tmp_path: Path) -> None:
    vectors, patients, columns = world()
    rng = np.random.default_rng(9)
    first = make_index(tmp_path / "a", vectors, patients, columns)
    blind = rng.normal(size=(80, 8)).astype(np.float32)
    second = make_index(tmp_path / "b", blind, patients[:80], {name: values[:80] for name, values in columns.items()})
    report = evaluate_retrieval([first, second], ks=(5,), bootstraps=200)
    assert report.cases == 80
    assert any("80 images" in note for note in report.notes)
    one, other = report.indexes
    difference = report.differences[0].mean_precision[0]
    values = [index.mean.precision[0].figure.value for index in (one, other)]
    assert difference.value == pytest.approx(values[0] - values[1])  # type: ignore[operator]
    # The first knows of effusions and the second of nothing.
    assert report.differences[0].precision["Effusion"][0].low > 0  # type: ignore[operator]


def test_tokens_are_compared_by_max_sim(tmp_path: Path) -> None:
    from cxr_embed import open_store
    from cxr_embed.index.faiss.build import build_index
    from cxr_embed.manifest import read_manifest
    from cxr_embed.store import Row, StoreWriter
    from cxr_embed.types import EncoderSpec

    rng = np.random.default_rng(4)
    tokens = rng.normal(size=(30, 3, 8)).astype(np.float32)
    with StoreWriter(
        tmp_path / "store",
        EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"t": (3, 8)}),
        dtype="float32",
    ) as writer:
        for number in range(30):
            writer.add_vector(
                Row(image_id=f"c{number}", patient_id=f"p{number // 2}", content=number.to_bytes(32, "big")),
                {"t": tokens[number]},
            )
        writer.flush("toy engine")
    lines = ["image_id,path,patient_id,Mass", *(f"c{n},c{n}.png,p{n // 2},{n % 3 == 0:d}" for n in range(30))]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    manifest = read_manifest(tmp_path / "m.csv")
    build_index(open_store(tmp_path / "store"), tmp_path / "index", manifest=manifest, pool="tokens")
    index = CaseIndex(tmp_path / "index")
    report = evaluate_retrieval([index], ks=(3,), bootstraps=20)
    whole = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
    precision = []
    for query in range(0, 30, 3):
        similar = np.einsum("td,nsd->nts", whole[query], whole).max(axis=2).mean(axis=1)
        similar[[query // 2 * 2, query // 2 * 2 + 1]] = -2
        precision.append(np.mean(np.argsort(-similar)[:3] % 3 == 0))
    assert report.indexes[0].findings[0].figures.precision[0].figure.value == pytest.approx(np.mean(precision))


@pytest.fixture
def built(tmp_path: Path) -> CaseIndex:
    return make_index(tmp_path, *world())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ks": (0,)}, "`k` is a number of neighbours"),
        ({"findings": ("Hernia",)}, "no finding Hernia; the findings are: "),
        ({"split_queries": "tset"}, "the splits are: test, train"),
        ({"split_cases": "dev"}, "no image is in the split 'dev'"),
    ],
)
def test_bad_options_are_refused(built: CaseIndex, options: dict[str, Any], told: str) -> None:
    with pytest.raises(CxrEmbedError, match=told):
        evaluate_retrieval([built], **options)


def test_nothing_to_evaluate_is_refused(tmp_path: Path) -> None:
    vectors, patients, columns = world()
    with pytest.raises(CaseIndexError, match="no finding, no view and no second image of a patient is known"):
        evaluate_retrieval([make_index(tmp_path / "a", vectors)])
    unowned = make_index(tmp_path / "b", vectors, [""] * CASES, columns)
    with pytest.raises(CaseIndexError, match="it knows the patient of no image"):
        evaluate_retrieval([unowned])
    blank = make_index(tmp_path / "c", vectors, patients, {"Mass": [""] * CASES})
    with pytest.raises(CaseIndexError, match="no label of the queries is known"):
        evaluate_retrieval([blank])
    alone = make_index(tmp_path / "d", vectors[:1], patients[:1], {"Mass": ["1"]})
    with pytest.raises(CaseIndexError, match="no query has a labelled image of another patient"):
        evaluate_retrieval([alone])
    labels = tmp_path / "labels.csv"
    labels.write_text("image_id,Mass\nother,1\n")
    with pytest.raises(CasesError, match="have no image_id in common"):
        evaluate_retrieval([blank], read_labels(labels))


def test_patients_and_views_need_no_finding(tmp_path: Path) -> None:
    vectors, patients, columns = world()
    full = make_index(tmp_path / "full", vectors, patients, columns)
    bare = make_index(tmp_path / "bare", vectors, patients, {"view": columns["view"]})
    expected = evaluate_retrieval([full], ks=(3, 5), bootstraps=50).indexes[0]
    report = evaluate_retrieval([bare, bare], ks=(3, 5), bootstraps=50)
    (found, _), (difference,) = report.indexes, report.differences
    assert (found.same_patient, found.same_view) == (expected.same_patient, expected.same_view)
    assert (found.findings, found.mean.precision[0].figure.value, found.mean_vote.value) == ((), None, None)
    assert difference.same_patient[0].value == 0
    assert any("no finding is known" in note for note in report.notes)
    done = run_cli("index", "evaluate", str(bare.path), str(bare.path), "--bootstraps", "20")
    assert done.returncode == 0, done.stderr
    assert "same patient, recall@5" in done.stdout
    assert "nDCG" not in done.stdout
    assert run_cli("index", "evaluate", str(bare.path), "--bootstraps", "20", "--json").returncode == 0
    with pytest.raises(CasesError, match="no finding Mass; the findings are: none"):
        evaluate_retrieval([bare], findings=["Mass"])


def test_labels_of_a_file_replace_those_of_the_index(built: CaseIndex, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    rows = [f"c{number},{int(number % 4 == 0)}" for number in range(0, CASES, 2)]
    labels.write_text("image_id,Nodule\n" + "\n".join(rows) + "\n")
    report: RetrievalReport = evaluate_retrieval([built], read_labels(labels), ks=(3,), bootstraps=20)
    (finding,) = report.indexes[0].findings
    assert (finding.name, finding.cases, finding.positives) == ("Nodule", 45, 23)
    assert any("45 images have no labels" in note for note in report.notes)


def test_the_verb_prints_json_and_tables(built: CaseIndex) -> None:
    arguments = ["index", "evaluate", str(built.path), str(built.path), "-k", "3,5", "--bootstraps", "50"]
    done = run_cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["k"] == [3, 5]
    first = told["indexes"][0]["findings"][0]
    assert first["finding"] == "Effusion"
    assert 0 < first["precision"][0]["low"] < first["precision"][0]["value"] < first["precision"][0]["high"] < 1
    assert first["vote_auroc"]["queries"] == CASES
    assert told["differences"][0]["findings"][0]["precision"][1]["value"] == 0
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines if "(" in line and ":" not in line) <= 80
    assert any(line.startswith("finding") and "nDCG@5" in line for line in lines)
    assert lines[-1] == "For research; not a medical device."


def test_without_draws_there_are_figures_and_no_intervals(built: CaseIndex) -> None:
    report = evaluate_retrieval([built, built], ks=(3,), bootstraps=0)
    figure = report.indexes[0].mean.precision[0].figure
    assert figure.value is not None
    assert figure.low is None
    assert "no draws" in figure.reason


def test_more_neighbours_than_there_are_have_no_figure(built: CaseIndex) -> None:
    report = evaluate_retrieval([built], ks=(3, 500), bootstraps=20)
    finding = report.indexes[0].findings[0]
    assert finding.figures.precision[0].figure.value is not None
    assert finding.figures.precision[1].figure.value is None
    assert finding.figures.precision[1].figure.reason == "fewer than 500 images can be found"
    assert "no part in the mean: Effusion, Mass (fewer than 500 images can be found)" in report.notes[0]
    assert finding.vote.value is not None
    assert report.indexes[0].mean.precision[0].figure.value is None


def test_the_verb_refuses_a_k_that_is_none(built: CaseIndex) -> None:
    done = run_cli("index", "evaluate", str(built.path), "-k", "five")
    assert done.returncode == 2
    assert "5,10" in done.stderr
