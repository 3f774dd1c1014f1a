"""Prompts: the files that hold their words, and the store's file of their vectors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
import yaml
from helpers import SPEC, fill, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.datasets import load_recipe
from cxr_embed.errors import StoreError
from cxr_embed.prompts import Finding, PromptError, load_prompt_set, prompt_set_names
from cxr_embed.store import StoreWriter, add_prompts, read_prompts, verify_store
from cxr_embed.types import EncoderSpec, TextRule

ROOT = Path(__file__).parents[1]
TEXT_SPEC = EncoderSpec(
    name="toy-text", revision="1", preprocessing="none", outputs=SPEC.outputs, text=TextRule("tokens", "elixr")
)


def write(folder: Path, text: str) -> str:
    path = folder / "prompts.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def faults(folder: Path, text: str) -> str:
    with pytest.raises(PromptError) as caught:
        load_prompt_set(write(folder, text))
    return str(caught.value)


# ---- files


def test_a_prompt_file_as_the_readme_prints_it(tmp_path: Path) -> None:
    text = "findings: {Pneumothorax: {positive: [small pneumothorax], negative: [no pneumothorax]}}"
    chosen = load_prompt_set(write(tmp_path, text))
    assert chosen.findings == (Finding("Pneumothorax", ("small pneumothorax",), ("no pneumothorax",)),)
    assert chosen.prompts == ("small pneumothorax", "no pneumothorax")


def test_templates_are_filled_and_a_findings_own_wins(tmp_path: Path) -> None:
    text = """
template: "chest radiograph: {}"
findings:
  Mass: {positive: [mass], negative: [no mass]}
  Edema: {positive: [edema], template: "a film with {}."}
"""
    mass, edema = load_prompt_set(write(tmp_path, text)).findings
    assert mass == Finding("Mass", ("chest radiograph: mass",), ("chest radiograph: no mass",))
    assert edema == Finding("Edema", ("a film with edema.",), ())


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        """
templat: "{}"
findings:
  Mass: {positve: [mass], negative: [~, "no {}"]}
  Edema: {positive: [edema, ' '], template: no place}
  Hernia: {positive: [hernia, Hernia]}
  Nodule: {positive: [nodule], negative: [Nodule]}
  image_id: {positive: nodule}
""",
    )
    for words in (
        "templat: unknown key; did you mean template?",
        "findings.Mass.positve: unknown key; did you mean positive?",
        "findings.Mass.positive: is missing",
        "findings.Mass.negative.0: must be text",
        "findings.Mass.negative.1: 'no {}' holds {}, which nothing fills",
        "findings.Edema.positive.1: is blank",
        "findings.Edema.template: a template is words around one {}",
        "findings.Hernia.positive: these prompts stand twice: 'hernia'",
        "findings.Nodule: both positive and negative: 'nodule'",
        "findings.image_id: a finding names a column",
        "findings.image_id.positive: must be a list",
    ):
        assert words in told, told
    assert told.count("\n") == 11


def test_yaml_s_own_words_are_words(tmp_path: Path) -> None:
    text = "title: 2020-01-01\nfindings: {Yes: {positive: [yes, on, 1_0]}, 1: {positive: [0x1], negative: [no]}}"
    chosen = load_prompt_set(write(tmp_path, text))
    assert chosen.findings == (Finding("Yes", ("yes", "on", "1_0")), Finding("1", ("0x1",), ("no",)))
    assert chosen.title == "2020-01-01"


@pytest.mark.parametrize("text", ["large {}", "{finding} is seen", "{0}"])
def test_a_template_that_nothing_fills_is_no_prompt(tmp_path: Path, text: str) -> None:
    assert "which nothing fills" in faults(tmp_path, f"findings: {{Mass: {{positive: ['{text}']}}}}")
    plain = write(tmp_path, "findings: {Mass: {positive: ['a {b c} d', '} {']}}")
    assert load_prompt_set(plain).prompts == ("a {b c} d", "} {")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must map keys to values"),
        ("- a", "must map keys to values"),
        ("findings: {}", "findings: is empty"),
        ("findings: 3", "findings: must map findings"),
        ("title: x", "findings: is missing"),
        ("findings: {Mass: {positive: []}}", "findings.Mass.positive: is empty"),
        ("findings: {Mass: {positive: [a]}, Mass: {positive: [b]}}", "Mass stands twice, line 1"),
        ("findings: {Mass: {positive: [a]}, mass: {positive: [b]}}", "differ only in case: mass"),
        ("template: '{} {}'\nfindings: {Mass: {positive: [a]}}", "words around one {}"),
        ("findings: [", "line 1"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ('findings: {Mass: {positive: ["a\\nb"]}}', "control character"),
    ],
)
def test_a_file_that_is_none_says_why(tmp_path: Path, text: str, words: str) -> None:
    assert words in faults(tmp_path, text)


def test_no_file_and_no_such_set(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="did you mean nih14"):
        load_prompt_set("nih41")
    with pytest.raises(PromptError, match="No such file"):
        load_prompt_set(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PromptError, match="not YAML text"):
        load_prompt_set(str(tmp_path / "bad.yaml"))


_KEYS = st.sampled_from(["findings", "positive", "negative", "template", "x"])
_YAML = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner),
)


@given(_YAML)
@settings(max_examples=200, deadline=None)
def test_any_yaml_is_a_prompt_set_or_a_clear_error(value: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), yaml.safe_dump(value))
        try:
            chosen = load_prompt_set(path)
        except PromptError as error:
            assert str(error).startswith(path)  # noqa: PT017 (both ways are right)
        else:
            assert all(finding.positive for finding in chosen.findings)


def test_the_sets_that_come_along() -> None:
    assert prompt_set_names() == ["chexpert13", "nih14", "phantom8", "quality"]
    nih = [name for name in load_recipe("nih-chestxray14").findings("text-mined") if name != "No Finding"]
    assert [finding.name for finding in load_prompt_set("nih14").findings] == nih
    assert len(load_prompt_set("chexpert13").findings) == 13
    for name in prompt_set_names():
        chosen = load_prompt_set(name)
        assert chosen.title
        assert chosen.sources
        assert all(len(finding.positive) >= 2 and len(finding.negative) >= 2 for finding in chosen.findings)
    published = {"small pneumothorax", "no pneumothorax", "large pleural effusion", "no pleural effusion"}
    assert published <= set(load_prompt_set("nih14").prompts)
    assert {"Airspace Opacity", "no evidence of airspace disease"} <= set(load_prompt_set("chexpert13").prompts)


def test_the_digest_is_of_the_words(tmp_path: Path) -> None:
    one = load_prompt_set(write(tmp_path, "findings: {A: {positive: [a], negative: [b]}}"))
    titled = load_prompt_set(write(tmp_path, "title: t\nfindings: {A: {positive: [a], negative: [b]}}"))
    other = load_prompt_set(write(tmp_path, "findings: {A: {positive: [b], negative: [a]}}"))
    assert one.digest == titled.digest != other.digest


def test_the_verb_lists_and_shows(tmp_path: Path) -> None:
    assert "nih14" in run_cli("prompts").stdout
    assert [entry["name"] for entry in json.loads(run_cli("prompts", "--json").stdout)] == prompt_set_names()
    shown = run_cli("prompts", "nih14").stdout
    assert "small pneumothorax" in shown
    assert "source: " in shown
    path = write(tmp_path, "findings: {A: {positive: [a]}}")
    value = json.loads(run_cli("prompts", path, "--json").stdout)
    assert value["findings"] == [{"name": "A", "positive": ["a"], "negative": []}]
    done = run_cli("prompts", "nih15")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no prompt set is named 'nih15'")


# ---- vectors in the store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(tmp_path / "s", range(5), spec=TEXT_SPEC)
    return tmp_path / "s"


def test_vectors_come_back_and_a_prompt_is_replaced(store: Path) -> None:
    assert len(read_prompts(open_store(store))) == 0
    add_prompts(store, ["a", "b"], np.array([[1, 2], [3, 4]]), "first")
    merged = add_prompts(store, ["c", "b"], np.array([[5.5, 6], [7, 8]]), "second")
    held = read_prompts(open_store(store))
    assert held.prompts == merged.prompts == ("a", "b", "c")
    assert held.sources == ("first", "second", "second")
    assert held.vectors.dtype == np.float32
    np.testing.assert_array_equal(held.vectors, [[1, 2], [7, 8], [5.5, 6]])
    assert verify_store(store) == []
    assert len(open_store(store)) == 5


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
        st.tuples(*[st.floats(0.5, 2.0**99, width=32) | st.floats(-(2.0**99), -0.5, width=32)] * 2),
        max_size=8,
    )
)
@settings(max_examples=25, deadline=None)
def test_any_text_comes_back_letter_for_letter(prompts: dict[str, tuple[float, float]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "s", range(1), spec=TEXT_SPEC)
        vectors = np.array(list(prompts.values()), np.float32).reshape(-1, 2)
        add_prompts(Path(folder) / "s", list(prompts), vectors, "a test")
        held = read_prompts(open_store(Path(folder) / "s"))
        assert held.prompts == tuple(prompts)
        np.testing.assert_array_equal(held.vectors, vectors)


@pytest.mark.parametrize(
    ("prompts", "vectors", "words"),
    [
        (["a"], [[1, 2, 3]], r"shape \(1, 2\) here, got \(1, 3\)"),
        (["a"], [[1, 2], [3, 4]], r"got \(2, 2\)"),
        (["a", "a"], [[1, 2], [3, 4]], "given twice: 'a'"),
        (["a", " "], [[1, 2], [3, 4]], "blank prompts, or no text: ' '"),
        (["\ud800"], [[1, 2]], "no text"),
        (["a", "b"], [[1, 2], [np.nan, 4]], "not finite .*: 'b'"),
        (["a"], [[1e39, 1]], "not finite"),
        (["a"], [[0, 0]], "no direction: 'a'"),
    ],
)
def test_what_is_no_prompt_vector_is_refused(store: Path, prompts: list[str], vectors: object, words: str) -> None:
    add_prompts(store, ["kept"], np.ones((1, 2)), "first")
    before = (store / "prompts.arrow").read_bytes()
    with pytest.raises(StoreError, match=words):
        add_prompts(store, prompts, np.array(vectors), "second")
    assert (store / "prompts.arrow").read_bytes() == before


def test_a_store_without_text_takes_no_prompts(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    with pytest.raises(StoreError, match="no prompt can be compared"):
        add_prompts(tmp_path / "s", ["a"], np.ones((1, 2)), "x")
    with pytest.raises(StoreError, match="no prompt can be compared"):
        read_prompts(open_store(tmp_path / "s"))
    (tmp_path / "s" / "prompts.arrow").write_bytes(b"")
    assert [fault.where for fault in verify_store(tmp_path / "s")] == ["prompts.arrow"]


def test_a_store_without_the_output_that_prompts_need(tmp_path: Path) -> None:
    spec = EncoderSpec(
        name="toy-text", revision="1", preprocessing="none", outputs=SPEC.outputs, text=TextRule("contrastive", "elixr")
    )
    fill(tmp_path / "s", range(3), spec=spec)
    with pytest.raises(StoreError, match="`outputs` contrastive"):
        read_prompts(open_store(tmp_path / "s"))


def test_another_stores_prompts_are_named(store: Path, tmp_path: Path) -> None:
    other = EncoderSpec(
        name="other-text", revision="1", preprocessing="none", outputs=SPEC.outputs, text=TextRule("tokens", "elixr")
    )
    fill(tmp_path / "t", range(2), spec=other)
    add_prompts(store, ["a"], np.ones((1, 2)), "x")
    shutil.copy(store / "prompts.arrow", tmp_path / "t")
    with pytest.raises(StoreError) as caught:
        read_prompts(open_store(tmp_path / "t"))
    for spec in (other, TEXT_SPEC):
        assert f"{spec.name} [{spec.fingerprint[:12]}]" in str(caught.value)
    (fault,) = verify_store(tmp_path / "t")
    assert fault.where == "prompts.arrow"


def test_damage_never_passes_for_prompts(store: Path) -> None:
    add_prompts(store, ["a", "b"], np.array([[1, 2], [3, 4]]), "x")
    path = store / "prompts.arrow"
    sound, whole = read_prompts(open_store(store)), path.read_bytes()
    rng = np.random.default_rng(0)
    noticed = 0
    for at in [*rng.integers(0, len(whole), 150), *range(0, len(whole), 100)]:
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                held = read_prompts(open_store(store))
            except StoreError as error:
                assert "prompts.arrow" in str(error)  # noqa: PT017 (padding may change unnoticed)
                noticed += 1
            else:
                assert held.prompts == sound.prompts
                assert held.sources == sound.sources
                np.testing.assert_array_equal(held.vectors, sound.vectors)
    assert noticed > 100
    path.write_bytes(whole[: len(whole) // 2])
    assert [fault.where for fault in verify_store(store)] == ["prompts.arrow"]


def test_a_writer_keeps_prompts_out_until_it_is_done(store: Path) -> None:
    with StoreWriter(store, TEXT_SPEC), pytest.raises(StoreError, match="another process is writing"):
        add_prompts(store, ["a"], np.ones((1, 2)), "x")
    assert not (store / "prompts.arrow").exists()
    add_prompts(store, ["a"], np.ones((1, 2)), "x")
    fill(store, range(5, 8), spec=TEXT_SPEC)
    assert len(open_store(store)) == 8
    assert read_prompts(open_store(store)).prompts == ("a",)


def test_a_read_only_store_says_so(store: Path) -> None:
    (store / "writer.lock").mkdir()  # what cannot be opened for writing, whoever asks
    with pytest.raises(StoreError, match="cannot be written"):
        add_prompts(store, ["a"], np.ones((1, 2)), "x")


def test_a_killed_writer_leaves_old_or_new_and_no_litter(store: Path) -> None:
    add_prompts(store, ["a"], np.ones((1, 2)), "before")
    # Killed where it hurts most: all is written beside, nothing is renamed yet.
    code = (
        "import os, sys, signal, numpy as np; from cxr_embed.store import add_prompts; "
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL); "
        "add_prompts(sys.argv[1], ['a', 'b'], np.full((2, 2), 2.0), 'after')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert any(name.startswith(".prompts.arrow.") for name in os.listdir(store))
    assert read_prompts(open_store(store)).sources == ("before",)
    assert verify_store(store) == []
    add_prompts(store, ["b"], np.ones((1, 2)), "again")
    assert read_prompts(open_store(store)).sources == ("before", "again")
    assert not any(name.startswith(".prompts.arrow.") for name in os.listdir(store))


def test_the_lock_is_given_back_after_an_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("cxr_embed.store.layout.os.replace", full)
        with pytest.raises(StoreError, match=r"prompts.arrow: cannot be written \(No space left"):
            add_prompts(store, ["a"], np.ones((1, 2)), "x")
    lock = filelock.FileLock(store / "writer.lock")
    lock.acquire(blocking=False)
    lock.release()
    assert not any(name.startswith((".prompts", "prompts")) for name in os.listdir(store))


def test_readers_see_whole_files_while_they_are_replaced(store: Path) -> None:
    add_prompts(store, ["a"], np.full((1, 2), 1.0), "x")
    code = (
        "import sys, numpy as np; from cxr_embed.store import add_prompts\n"
        "for n in range(1, 40): add_prompts(sys.argv[1], ['a', f'p{n}'], np.full((2, 2), n), 'x')"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(store)])
    reads = 0
    while writer.poll() is None or reads == 0:
        held = read_prompts(open_store(store))
        # Every version holds as many prompts as the number that is its first vector says.
        assert len(held) == held.vectors[0, 0] + (1 if len(held) > 1 else 0)
        reads += 1
    assert writer.returncode == 0
    assert len(read_prompts(open_store(store))) == 40
