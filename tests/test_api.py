"""The Python API: the README's lines run as written, arguments take what users have, errors name arguments."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from synthetic_chests import chest

import cxr_embed as cx
from cxr_embed.errors import CxrEmbedError, ImageError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest of 48 synthetic chests of 24 patients, half of them in the test split."""
    folder = tmp_path_factory.mktemp("api")
    lines = ["image_id,path,patient_id,split,sex,view,Effusion"]
    for number in range(48):
        pixels = (chest(number, 256) >> 4).astype(np.uint8)
        if number % 4 < 2:
            pixels[160:, :] = np.maximum(pixels[160:, :], 200)
        Image.fromarray(pixels).save(folder / f"i{number}.png")
        split = "train" if number < 24 else "test"
        lines.append(f"i{number},i{number}.png,p{number // 2},{split},{'MF'[number // 2 % 2]},PA,{int(number % 4 < 2)}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "a.png").write_bytes((folder / "i0.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def store(place: Path) -> cx.api.embed.EmbeddedStore:  # type: ignore[name-defined]
    return cx.embed(place / "manifest.csv", store=place / "vectors" / "mini", workers=1)


def lines_of_the_readme() -> str:
    pages = [(ROOT / name).read_text() for name in ("README.md", "docs/python.md")]
    blocks = [re.findall(r"```python\n(import cxr_embed as cx\n.*?)```", page, re.DOTALL) for page in pages]
    assert len(blocks[0]) == 1
    assert blocks[0] == blocks[1], "both pages show the same lines"
    return blocks[0][0]


def test_the_lines_of_the_readme_run_as_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    array = np.asarray(Image.open(place / "i3.png"))
    known: dict[str, object] = {"array": array}
    exec(lines_of_the_readme(), known)
    assert known["one"].shape[0] == 2  # type: ignore[attr-defined]
    scores, zero, index = known["scores"], known["zero"], known["index"]
    assert scores.to_pandas().columns.tolist()[0] == "image_id"  # type: ignore[attr-defined]
    assert zero.names == ("Effusion",)  # type: ignore[attr-defined]
    assert len(index) == 48  # type: ignore[arg-type]
    assert (place / "report.html").is_file()
    assert (place / "probes" / "p" / "probe.json").is_file()


def test_embed_gives_the_open_store(store: cx.api.embed.EmbeddedStore) -> None:  # type: ignore[name-defined]
    assert len(store) == 48
    assert store.summary.stored == 48
    # How many are new depends on which test came first.
    assert re.match(r"48 images: \d+ embedded, \d+ unchanged", repr(store.summary))
    with pytest.warns(DeprecationWarning, match=r"\.summary\.stored"):
        assert store.stored == 48
    with pytest.raises(AttributeError, match="no_such"):
        store.no_such  # noqa: B018


def test_embed_takes_files_instead_of_a_manifest(place: Path, store: object, tmp_path: Path) -> None:
    files = [place / "i0.png", str(place / "i1.png"), place / ".." / place.name / "i0.png"]
    made = cx.embed(images=files, store=tmp_path / "few", workers=1, key_file=_key(tmp_path))
    assert made.ids.tolist() == ["i0", "i1"]
    assert made.patient_ids.tolist() == ["unknown-i0", "unknown-i1"]
    np.testing.assert_array_equal(made.read(["i0"]).vectors, store.read(["i0"]).vectors)  # type: ignore[attr-defined]
    named = tmp_path / "DOE^JANE 1.2.840.113619.2.55.3.604688119.png"  # a UID: its image's id is a keyed hash
    named.write_bytes((place / "i2.png").read_bytes())
    hidden = cx.embed(images=[named], store=tmp_path / "hidden", workers=1, key_file=_key(tmp_path))
    assert "113619" not in hidden.ids[0]


def _key(folder: Path) -> Path:
    (folder / "key").write_text("sixteen characters and more")
    return folder / "key"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`embed` takes a `manifest` or a list of `images`"),
        ({"manifest": "m.csv", "images": ["a.png"]}, "one of the two"),
        ({"images": "a.png"}, "`images` is a list of files"),
        ({"images": []}, "`images` is a list of files"),
        ({"images": ["nowhere.png"]}, r"1 file cannot be used \(nowhere.png: cannot be read"),
        ({"images": ["labels.txt"]}, "not an image|no PNG, JPEG"),
        ({"images": ["a.png"], "root": "elsewhere"}, "is not below"),
    ],
)
def test_files_that_cannot_be_embedded_are_named(
    arguments: dict[str, object], message: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "labels.txt").write_text("image_id\n")
    with pytest.raises(CxrEmbedError, match=message):
        cx.embed(**arguments, store=tmp_path / "s", key_file=_key(tmp_path))  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


def test_few_images_have_the_vectors_of_the_store(place: Path, store: object) -> None:
    paths = [place / f"i{number}.png" for number in range(5)]
    found = cx.embed_images([paths[0], np.asarray(Image.open(paths[1])), *map(str, paths[2:])], batch_size=2)
    kept = store.read([f"i{number}" for number in range(5)]).vectors.astype(np.float32)  # type: ignore[attr-defined]
    cosine = (found * kept).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(kept, axis=1)
    assert (cosine > 0.999).all()
    assert cx.embed_images([]).shape == (0, found.shape[1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("a.png", "`images` is a list"),
        ([np.zeros((4, 4, 3), np.uint8)], r"image 0: an array is \(H, W\)"),
        ([np.zeros((9, 9))], "float64"),
    ],
)
def test_images_of_another_kind_are_refused(images: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        cx.embed_images(images)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def probe(place: Path, store: object) -> object:
    return cx.train_probe(store, place / "manifest.csv", split="train", C=1.0)


def test_labels_and_scores_are_taken_in_every_form(place: Path, store: object, probe: object) -> None:
    import pandas

    frame = pandas.read_csv(place / "manifest.csv")
    scores = probe.predict(store, frame, split="test")  # type: ignore[attr-defined]
    scores.save(place / "scores.csv")
    as_arrow = scores.to_arrow()
    labels = [place / "manifest.csv", str(place / "manifest.csv"), frame, frame.set_index("image_id")]
    labels += [pa.Table.from_pandas(frame), frame.to_dict("list"), cx.read_manifest(place / "manifest.csv")]
    given = [scores, place / "scores.csv", scores.to_pandas(), as_arrow, as_arrow.to_pydict()]
    figures = {
        cx.evaluate(each, table, split="test", bootstraps=50).mean_auroc.value
        for each, table in [*((scores, table) for table in labels), *((each, frame) for each in given)]
    }
    assert len(figures) == 1
    assert None not in figures


def test_arrays_are_compared_row_by_row() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    values = truth + rng.normal(0, 1, 80)
    from sklearn.metrics import roc_auc_score

    found = cx.evaluate(values, truth, bootstraps=20)
    assert found.findings[0].figures["auroc"].value == pytest.approx(roc_auc_score(truth, values))
    both = cx.evaluate(np.stack([values, -values], 1), np.stack([truth, truth], 1), findings=["a", "b"], bootstraps=0)
    assert [finding.name for finding in both.findings] == ["a", "b"]
    clustered = cx.evaluate(values, truth, patients=np.arange(80) // 2, bootstraps=20)
    assert clustered.patients == 40
    with pytest.raises(CxrEmbedError, match=r"one shape, .* not \(80,\) and \(79,\)"):
        cx.evaluate(values, truth[:79])
    with pytest.raises(CxrEmbedError, match="`patients` has 3 ids, the arrays have 80 rows"):
        cx.evaluate(values, truth, patients=["a", "b", "c"])


def test_whom_a_probe_learned_from_travels_with_the_scores(place: Path, store: object, probe: object) -> None:
    scores = probe.predict(store)  # type: ignore[attr-defined]
    assert scores.learned_from.sum() == 24
    again = scores.to_pandas()
    assert again["learned_from"].sum() == 24
    judged = cx.evaluate(again, place / "manifest.csv", bootstraps=20)
    assert judged.images == 24
    assert any("learned from" in warning for warning in judged.warnings)


def test_what_no_result_could_say_later_is_said_at_once(place: Path, store: object) -> None:
    import pandas

    truth, values = np.array([0, 1] * 10), np.linspace(0, 1, 20)
    with pytest.raises(CxrEmbedError, match="`patients` is blank in row 3"):  # else all of them were one patient
        cx.evaluate(values, truth, patients=pandas.Series(["a", "b", "c", None] * 5))
    with pytest.raises(CxrEmbedError, match=r"'nih41': no set of this name; did you mean nih14\?"):
        cx.screen(store, "nih41")
    with pytest.raises(CxrEmbedError, match="`questions` is an empty list; name one"):
        cx.ask(store, [])  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="image 1: does not look like a chest radiograph") as caught:
        cx.embed_images([place / "i0.png", np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)])
    assert caught[0].filename == __file__  # each call has its own: Python shows one of a place
    frame = pandas.read_csv(place / "manifest.csv").assign(ids=1)
    with pytest.raises(CxrEmbedError, match="image_id"):  # a table with a column `ids` is a table
        cx.evaluate(frame[["ids", "Effusion"]], frame)


def test_a_report_knows_which_columns_of_a_manifest_are_not_findings(place: Path, probe: object, store: object) -> None:
    import pandas

    pandas.read_csv(place / "manifest.csv").assign(smoker=1).to_csv(place / "extra.csv", index=False)
    manifest = cx.read_manifest(place / "extra.csv", extra=["smoker"])
    scores = probe.predict(store, manifest, split="test")  # type: ignore[attr-defined]
    made = cx.report(scores, manifest, out=place / "extra.html", split="test", bootstraps=20)
    assert not any("smoker" in warning for warning in made.warnings)


def test_an_image_never_replaces_another_of_its_name(place: Path, tmp_path: Path) -> None:
    for number, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes((place / f"i{number}.png").read_bytes())
    how: dict[str, Any] = {"store": tmp_path / "store", "workers": 1, "key_file": _key(tmp_path)}
    cx.embed(images=[tmp_path / "x" / "a.png"], **how)
    assert cx.embed(images=[tmp_path / "x" / "a.png"], **how).ids.tolist() == ["a"]  # the same file again
    with pytest.raises(CxrEmbedError, match=r"'a', which is another file in .*; name the folder"):
        cx.embed(images=[tmp_path / "y" / "a.png"], **how)
    assert cx.embed(images=[tmp_path / "y" / "a.png"], root=tmp_path, **how).ids.tolist() == ["a", "y/a"]


def test_an_open_manifest_takes_a_root_and_columns_that_are_not_findings(place: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text((place / "manifest.csv").read_text())
    elsewhere = cx.read_manifest(tmp_path / "manifest.csv")
    assert cx.embed(elsewhere, store=tmp_path / "store", root=place, limit=1, workers=1).summary.embedded == 1
    scores = {"image_id": [f"i{n}" for n in range(8)], "Effusion": [0.1 * n for n in range(8)]}
    frame = elsewhere.table.append_column("smoker", pa.array(["1"] * 48))
    labels = replace(elsewhere, table=frame, findings=("Effusion", "smoker"))
    found = cx.evaluate(scores, labels, extra=["smoker"], bootstraps=0)
    assert not any("smoker" in warning for warning in found.warnings)


def test_results_print_and_show_tables(place: Path, store: object, probe: object) -> None:
    scores = probe.predict(store, place / "manifest.csv", split="test")  # type: ignore[attr-defined]
    result = cx.evaluate(scores, place / "manifest.csv", split="test", by=["sex"], bootstraps=50)
    table = result.to_pandas()
    assert table["finding"].tolist()[0] == "Effusion"
    assert set(table["group"].dropna()) == {"F", "M"}
    assert "not a medical device" in repr(result)
    for each in (probe, scores, result):
        shown = each._repr_html_()  # type: ignore[attr-defined]
        assert shown.startswith("<table>")
        assert "not a medical device" in shown
        assert "Effusion" in repr(each)
    figure = result.plot(place / "auroc.png")
    assert figure.axes
    assert (place / "auroc.png").stat().st_size > 1000


def test_html_escapes_what_files_say() -> None:
    from cxr_embed.present.tables import html_table

    assert "<script>" not in html_table(["<script>"], [["<script>alert(1)</script>"]], ["<b>"])


def test_prompts_are_taken_in_every_form(store: object, tmp_path: Path) -> None:
    pair = {"Effusion": (["pleural effusion"], ["no pleural effusion"])}
    by_dict = cx.screen(store, pair, score="margin")
    by_words = cx.screen(store, "pleural effusion")
    assert np.allclose(by_dict.values, by_words.values)
    assert cx.screen(store, ["pleural effusion", "pneumothorax"]).names == ("pleural effusion", "pneumothorax")
    (tmp_path / "p.yaml").write_text("findings:\n  Effusion: {positive: [pleural effusion], negative: [no effusion]}\n")
    assert cx.screen(store, tmp_path / "p.yaml").names == ("Effusion",)
    best = by_words.top(k=3)
    assert len(best) == 3
    assert best[0][1] == by_words.values.max()
    with pytest.raises(CxrEmbedError, match="`prompts` Effusion: a pair of lists"):
        cx.screen(store, {"Effusion": ("pleural effusion", "none")})  # type: ignore[dict-item]
    with pytest.raises(CxrEmbedError, match="`finding` is one of"):
        by_words.top("Mass")


def test_an_index_is_searched_by_image_case_and_words(place: Path, store: object) -> None:
    index = cx.build_index(store, place / "manifest.csv", path=place / "index2")
    by_image = index.search(image=place / "i5.png", k=3)
    assert by_image.ids[0] != "i5"
    assert len(by_image) == 3
    assert index.search(image_id="i5", k=3, exclude_same_patient=True).to_pandas()["patient_id"].ne("p2").all()
    again = cx.open_index(place / "index2").search(image_id=["i5"], k=2, where="sex = F")
    assert {case["sex"] for case in again.cases} == {"F"}
    assert len(index.search(text="pleural effusion", k=2)) == 2  # the default output answers words too
    again.save(place / "found.csv")
    assert "similarity" in (place / "found.csv").read_text()
    assert again._repr_html_().startswith("<table>")


def test_a_curve_is_drawn_saved_and_told(place: Path, store: object) -> None:
    curve = cx.few_label_curve(store, place / "manifest.csv", shots=[2, "all"], seeds=2)
    assert curve.to_pandas()["finding"].isna().sum() == 2
    curve.save(place / "curve")
    assert (place / "curve" / "curve.json").is_file()
    assert "toprule" in curve.to_latex()
    assert curve.plot().axes
    with pytest.raises(CxrEmbedError, match="`shots` is a list of whole numbers"):
        cx.few_label_curve(store, place / "manifest.csv", shots=[0])


def test_errors_name_arguments(place: Path, store: object, probe: object) -> None:
    scores = probe.predict(store)  # type: ignore[attr-defined]
    with pytest.raises(CxrEmbedError, match=r"^`prevalence` is a part of 1"):
        cx.evaluate(scores, place / "manifest.csv", prevalence=2.0)
    with pytest.raises(CxrEmbedError, match=r"^`kind` is linear"):
        cx.train_probe(store, place / "manifest.csv", kind="forest")  # type: ignore[arg-type]
    with pytest.raises(CxrEmbedError, match=r"^`C` is a number above 0"):
        cx.train_probe(store, place / "manifest.csv", C=-1)
    with pytest.raises(CxrEmbedError, match=r"`labels` is a path, a pandas or pyarrow table"):
        cx.evaluate(scores, 3)  # type: ignore[arg-type]
    with pytest.raises(CxrEmbedError, match="image_id is missing"):
        cx.evaluate(scores, {"Effusion": [1, 0]})


def test_no_message_of_the_library_names_a_flag() -> None:
    """Flags are the command line's: a message names an argument in backquotes, and the command line spells it."""
    import ast

    # Those of pip and of the Hub's own command are other programs'.
    flag = re.compile(r"(?<![\w`-])--(?!include |revision |local-dir |no-index |find-links |array=)[a-z]")
    for path in (ROOT / "cxr_embed").rglob("*.py"):
        if path.is_relative_to(ROOT / "cxr_embed" / "cli"):
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                outside = re.sub(r"`[^`-][^`]*`|cxr-embed [^;\n]*|--json|STORE --[a-z-]+ [A-Z]+", "", node.value)
                assert not flag.search(outside), f"{path.name}:{node.lineno}: {node.value!r}"


def test_the_command_line_spells_arguments_as_flags() -> None:
    from cxr_embed.cli.terminal import name_flags, with_flags

    name_flags({"prevalence": "--prevalence", "kind": "--kind", "C": "-C", "key_file": "--key-file"})
    try:
        assert with_flags("`prevalence` is a part; `kind='flat'`; `C`; `other`; `cxr-embed x`") == (
            "--prevalence is a part; --kind flat; -C; `other`; `cxr-embed x`"
        )
    finally:
        name_flags({})


def test_a_probe_is_evaluated_on_whom_it_does_not_know(place: Path, store: object, probe: object) -> None:
    found = probe.evaluate(store, place / "manifest.csv", bootstraps=50)  # type: ignore[attr-defined]
    scores = probe.predict(store)  # type: ignore[attr-defined]
    expected = cx.evaluate(scores, place / "manifest.csv", split="test", bootstraps=50)
    assert found.mean_auroc == expected.mean_auroc
    with pytest.raises(CxrEmbedError, match="that the probe learned from"):
        probe.evaluate(store, place / "manifest.csv", split="train")  # type: ignore[attr-defined]


def test_a_comparison_prints_and_is_a_table(place: Path, store: object, probe: object) -> None:
    scores = probe.predict(store)  # type: ignore[attr-defined]
    made = cx.compare(scores, scores, place / "manifest.csv", split="test", bootstraps=50)
    assert made.to_pandas()["difference"].tolist() == [0.0, 0.0]
    assert made.to_pandas()["finding"].tolist() == ["Effusion", "(mean)"]
    assert "Effusion: 0.000" in repr(made)
    assert "<th>p_holm</th>" in made._repr_html_()


def test_a_screening_is_reported_with_intervals(place: Path, store: object) -> None:
    prompts = {"Effusion": (["pleural effusion"], ["no pleural effusion"]), "Mass": (["mass"], ["no mass"])}
    made = cx.screen(store, prompts, findings=["effusion"], labels=place / "manifest.csv", prevalence={"*": 0.1})  # type: ignore[arg-type]
    assert made.names == ("Effusion",)
    (finding,) = made.report.findings  # type: ignore[union-attr]
    assert finding.auroc.low < finding.auroc.value < finding.auroc.high
    assert (finding.prevalence, finding.prevalence_stated) == (0.1, True)
    values = made.values[:, 0].astype(float)
    for rule, part in (("sensitivity=0.8", 0.8), ("specificity=0.8", 0.8), ("flag-rate=0.25", 0.25)):
        report = cx.screen(store, prompts, findings=["Effusion"], labels=place / "manifest.csv", threshold=rule).report  # type: ignore[arg-type]
        point = report.findings[0].point  # type: ignore[union-attr]
        reached = {"sensitivity": point.sensitivity, "specificity": point.specificity}.get(rule.partition("=")[0])
        if reached is None:
            assert (values >= point.threshold).mean() <= part
        else:
            assert reached >= part
    assert "thresholds were chosen on these very images; check them on others" in report.warnings  # type: ignore[union-attr]
    given = cx.screen(store, prompts, findings=["Effusion"], labels=place / "manifest.csv", threshold=0.0).report  # type: ignore[arg-type]
    assert not any("these very images" in warning for warning in given.warnings)  # type: ignore[union-attr]
    stated = cx.screen(store, prompts, findings=["Effusion"], threshold=0.0).report  # type: ignore[arg-type]
    assert stated.findings[0].point.threshold == 0.0  # type: ignore[union-attr]
    with pytest.raises(CxrEmbedError, match="`split` and `prevalence` are for the report on `labels`"):
        cx.screen(store, prompts, split="test")  # type: ignore[arg-type]
    with pytest.raises(CxrEmbedError, match="`threshold` youden needs `labels`"):
        cx.screen(store, prompts, threshold="youden")  # type: ignore[arg-type]


def test_an_index_is_evaluated(place: Path, store: object, tmp_path: Path) -> None:
    index = cx.build_index(store, place / "manifest.csv", path=tmp_path / "index")  # type: ignore[arg-type]
    for given in (index, tmp_path / "index", [index.index]):
        found = cx.evaluate_index(given, findings=["effusion"], k=[3], bootstraps=20)  # type: ignore[arg-type]
        assert [finding.name for finding in found.indexes[0].findings] == ["Effusion"]
    table = found.to_pandas()
    assert table["finding"].tolist() == ["Effusion", "(mean)"]
    assert table["precision"].tolist() == [found.indexes[0].mean.precision[0].figure.value] * 2
    assert "Effusion: precision@3" in repr(found)
    assert "not a medical device" in found._repr_html_()


def test_a_search_is_drawn(place: Path, store: object, tmp_path: Path) -> None:
    manifest = place / "manifest.csv"
    index = cx.build_index(store, manifest, path=tmp_path / "index")  # type: ignore[arg-type]
    found = index.search(image_id="i3", text="effusion", k=4, exclude_same_patient=True, where="view = PA")
    figure = found.plot(manifest, path=tmp_path / "cases.png")
    words = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert all(image_id in words for image_id in ["i3", *found.ids])
    assert sum(bool(axes.images) for axes in figure.axes) == 5
    below = figure.texts[0].get_text()
    assert "cases that meet: view = PA, exclude same patient" in below
    assert "not a medical device" in below
    # A notebook asks a figure for this, and gets the picture that is in the file, at its own size.
    with Image.open(io.BytesIO(figure._repr_png_())) as shown, Image.open(tmp_path / "cases.png") as written:
        assert written.text["cxr_embed image_id"] == json.dumps(["i3", *found.ids])  # type: ignore[attr-defined]
        assert abs(shown.width / shown.height - written.width / written.height) < 0.02
        assert len(np.unique(np.asarray(shown.convert("L")))) > 50
    elsewhere = found.plot(cx.read_manifest(manifest), root=tmp_path)
    assert not any(axes.images for axes in elsewhere.axes)


def test_a_report_takes_what_is_in_memory(place: Path, store: object, probe: object) -> None:
    scores = probe.predict(store)  # type: ignore[attr-defined]
    curve = cx.few_label_curve(store, place / "manifest.csv", shots=[2], seeds=2)  # type: ignore[arg-type]
    made = cx.report(
        scores, place / "manifest.csv", out=place / "all.html", split="test", probes=[probe], curve=curve, bootstraps=20
    )
    page = made.page.read_text()
    assert "Few labels" in page
    assert "probe 1" in page
    with pytest.raises(CxrEmbedError, match="`threshold` Typo: no such finding; the findings are Effusion"):
        cx.evaluate(scores, place / "manifest.csv", threshold={"Typo": 0.5})


def test_a_question_is_answered_with_images(place: Path, store: object) -> None:
    found = cx.ask(store, "Effusion=pleural effusion", k=3, manifest=place / "manifest.csv", split="test")  # type: ignore[arg-type]
    expected = cx.screen(store, ["Effusion=pleural effusion"])  # type: ignore[arg-type]
    assert [(case["image_id"], case["score"]) for case in found.answers[0].cases] == expected.top(k=3)
    same = cx.evaluate(found.scores, place / "manifest.csv", split="test")
    assert found.answers[0].auroc == same.findings[0].figures["auroc"]
    table = found.to_pandas()
    assert table["question"].tolist() == ["Effusion"] * 3
    assert table["image_id"].tolist() == [case["image_id"] for case in found.answers[0].cases]
    assert "Effusion: 'pleural effusion' against 'no pleural effusion'" in repr(found)
    assert "Effusion: AUROC " in repr(found)
    with pytest.raises(CxrEmbedError, match="`split` is for the AUROC on labels"):
        cx.ask(store, "pneumothorax", split="test")  # type: ignore[arg-type]
