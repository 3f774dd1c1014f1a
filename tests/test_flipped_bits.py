"""One flipped bit in a store, an index, a probe or a curve: the same numbers, or an error that names the file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from every_verb import run as run_verb
from helpers import IN_CI

from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation import read_scores
from cxr_embed.reporting.collect import _read_curve
from cxr_embed.screening import write_scores
from cxr_embed.store import Row, StoreWriter, add_prompts
from cxr_embed.types import EncoderSpec, TextRule
from cxr_embed.zeroshot import Scores

IMAGES, WIDTH = 60, 24
FINDINGS = ("--finding", "Effusion", "--finding", "Mass")
PROMPTS = """
findings:
  Effusion: {positive: [fluid], negative: [no fluid]}
  Mass: {positive: [mass], negative: [no mass]}
"""
INDEX = ("index", "build", "store", "--manifest", "labels.csv")
# What is read, and what asks for numbers of it. OUT stands for a file or folder of what comes out.
VERBS = {
    "store": [
        ["store", "info", "store", "--json"],
        ["store", "export", "store", "OUT.npz"],
        ["store", "export", "store", "OUT.parquet", "--output", "more"],
        ["export", "npz", "store", "OUT.npz"],
        ["export", "prompts", "store", "OUT.npz"],
        ["probe", "predict", "probe", "store", "--out", "OUT.csv"],
        ["probe", "train", "store", "labels.csv", *FINDINGS, "--out", "OUT"],
        ["probe", "curve", "store", "labels.csv", *FINDINGS, "--shots", "2", "--seeds", "1", "--out", "OUT"],
        ["zeroshot", "store", "--prompts", "prompts.yaml", "--out", "OUT.csv"],
        [*INDEX, "--out", "OUT"],
    ],
    "flat": [
        ["search", "flat", "--image-id", "c3", "-k", "5", "--json"],
        ["search", "flat", "--text", "fluid", "-k", "5", "--json"],
        ["index", "info", "flat", "--json"],
        ["index", "duplicates", "flat", "--json"],
        ["index", "evaluate", "flat", "--bootstraps", "5", "--json"],
        ["index", "remove", "COPY", "c9"],
    ],
    "hnsw": [
        ["search", "hnsw", "--image-id", "c3", "-k", "5", "--json"],
        ["index", "remove", "COPY", "c9"],
    ],
    "tokens": [
        ["search", "tokens", "--image-id", "c3", "-k", "5", "--json"],
        ["index", "evaluate", "tokens", "--bootstraps", "5", "--json"],
        ["index", "duplicates", "tokens", "--json"],
    ],
    "probe": [
        ["probe", "predict", "probe", "store", "--out", "OUT.csv"],
        ["probe", "evaluate", "probe", "store", "labels.csv", "--split", "test", "--json"],
    ],
    "curve": [["read the curve"]],
}
SLOW = {"train", "curve", "build", "remove"}
# What a verb writes that is no number of its input, or of the moment.
OF_THE_MOMENT = ("index.json", "curve.csv", "writer.lock", "vectors.faiss")


def build(root: Path) -> None:
    """A small world of every kind of file."""
    rng = np.random.default_rng(0)
    rule = TextRule("features", "clip", 10.0, 0.0)
    shapes = {"features": (WIDTH,), "more": (3, 8)}
    spec = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs=shapes, text=rule)
    truth = rng.integers(0, 2, (IMAGES, 2))
    with StoreWriter(root / "store", spec) as writer:
        for number in range(IMAGES):
            vector = rng.standard_normal(WIDTH) + np.repeat(truth[number], WIDTH // 2)
            row = Row(image_id=f"c{number}", patient_id=f"p{number // 2}", content=number.to_bytes(32, "big"))
            writer.add_vector(row, {"features": vector, "more": rng.standard_normal((3, 8))})
            if number % 30 == 29:
                writer.flush("toy engine")
    texts = ["fluid", "no fluid", "mass", "no mass"]
    add_prompts(root / "store", texts, rng.standard_normal((4, WIDTH)), "made up")
    (root / "prompts.yaml").write_text(PROMPTS)
    lines = ["image_id,path,patient_id,split,Effusion,Mass"]
    for number, (effusion, mass) in enumerate(truth.tolist()):
        split = "test" if number % 10 > 5 else "train"
        lines.append(f"c{number},c{number}.png,p{number // 2},{split},{effusion},{mass}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    with contextlib.chdir(root):
        for words in (
            ["probe", "train", "store", "labels.csv", *FINDINGS, "--out", "probe"],
            ["probe", "curve", "store", "labels.csv", *FINDINGS, "--shots", "2", "--seeds", "2", "--out", "curve"],
            [*INDEX, "--kind", "flat", "--out", "flat"],
            [*INDEX, "--kind", "hnsw", "--out", "hnsw"],
            [*INDEX, "--output", "more", "--pool", "tokens", "--out", "tokens"],
        ):
            assert answer(words)[0] == 0, words


def answer(words: list[str]) -> tuple[int, str]:
    """A verb's exit status and what it printed, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        if words != ["read the curve"]:
            return run_verb(words), out.getvalue()
        try:
            print(json.dumps({**_read_curve(Path("curve/curve.json")), "sha256": ""}))
        except CxrEmbedError as error:
            print(error)
            return 1, out.getvalue()
    return 0, out.getvalue()


def numbers(words: list[str], target: str) -> tuple[int, str, dict[str, str]]:
    """What a verb answers: status, text, and the digests of the files that it wrote."""
    if "COPY" in words:
        shutil.copytree(target, "COPY")
    status, text = answer([word.replace("OUT", "made/out") for word in words])
    files = {}
    for folder in ("made", "COPY"):
        for path in sorted(Path(folder).rglob("*")):
            name = path.name
            if status or not path.is_file() or name in OF_THE_MOMENT:
                continue
            data = path.read_bytes()
            if name in ("probe.json", "curve.json"):
                body = json.loads(data)
                data = json.dumps({**body, "created": "", "digest": ""}).encode()
            if name == "prompts.arrow":  # padding counts for nothing
                data = repr(pa.ipc.open_file(data).read_all().to_pydict()).encode()
            files[name] = hashlib.sha256(data).hexdigest()
        shutil.rmtree(folder, ignore_errors=True)
    Path("made").mkdir()
    printed = text if "--json" in words or words == ["read the curve"] else ""
    return status, text if status else printed, files


def damages(root: Path, rng: np.random.Generator, count: int) -> Iterator[tuple[str, Path, int]]:
    """What is read, a file of it and a bit, evenly over the files."""
    files = [
        (target, path)
        for target in VERBS
        for path in sorted((root / target).rglob("*"))
        if path.is_file() and path.name != "writer.lock" and path.name != "curve.csv"
    ]
    for number in range(count):
        target, path = files[number % len(files)] if count >= len(files) else files[int(rng.integers(len(files)))]
        yield target, path, int(rng.integers(8 * path.stat().st_size))


def hold(root: Path, seed: int, count: int, every_verb: bool) -> Counter[str]:
    """Flips bits and asks; says how often each ending was met."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    expected: dict[tuple[str, ...], tuple[int, str, dict[str, str]]] = {}
    with contextlib.chdir(root):
        Path("made").mkdir(exist_ok=True)
        for target, path, bit in damages(root, rng, count):
            verbs = VERBS[target]
            if not every_verb:
                quick = [words for words in verbs if not SLOW & set(words)]
                verbs = [quick[int(rng.integers(len(quick)))]]
            for words in verbs:
                key = (target, *words)
                if key not in expected:
                    expected[key] = numbers(words, target)
                    assert expected[key][0] == 0, expected[key]
            whole = path.read_bytes()
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            try:
                for words in verbs:
                    status, text, files = numbers(words, target)
                    place = f"{path.relative_to(root)}, bit {bit}, {' '.join(words)}: {text}"
                    if not status:
                        assert (status, text, files) == expected[(target, *words)], place
                        found["the same numbers"] += 1
                        continue
                    assert len(text.strip().splitlines()) <= 3, place
                    named = [path.name, path.parent.name, target, "COPY"]
                    assert any(name in text for name in named), place
                    found["an error"] += 1
                    found["naming the file itself"] += path.name in text
            finally:
                path.write_bytes(whole)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flipped")
    build(root)
    return root


def test_no_flipped_bit_gives_other_numbers(world: Path) -> None:
    found = hold(world, 0, 24, every_verb=False)
    assert found["an error"] > 8
    assert found["the same numbers"] > 1


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_no_flipped_bit_gives_other_numbers_in_any_verb(world: Path, seed: int) -> None:
    count = 40 if IN_CI else 200
    found = hold(world, seed, count, every_verb=True)
    print(dict(found))
    assert found["an error"] > count


def test_no_flipped_bit_gives_other_scores_of_a_parquet_file(tmp_path: Path) -> None:
    path, rng = tmp_path / "scores.parquet", np.random.default_rng(0)
    names, ids = ("Effusion", "Mass"), np.array([f"c{number}" for number in range(IMAGES)])
    write_scores(
        path,
        Scores(ids=ids, names=names, values=rng.random((IMAGES, 2)).astype(np.float32), kind="probability"),
        {"made": "up"},
    )
    whole, expected = path.read_bytes(), read_scores(path).values(names)
    found: Counter[str] = Counter()
    for bit in rng.integers(0, 8 * len(whole), 200).tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            scores = read_scores(path)
        except CxrEmbedError as error:
            found["an error" if path.name in str(error) else "an error that names no file"] += 1
            continue
        if scores.names == names:  # a name has no checksum, and another one is seen
            np.testing.assert_array_equal(scores.ids, ids)
            np.testing.assert_array_equal(scores.values(names), expected)
            found["the same numbers"] += 1
    assert set(found) == {"an error", "the same numbers"}
    assert min(found.values()) > 20


def test_probes_and_curves_of_earlier_releases_have_no_digest_and_open(world: Path) -> None:
    for file, words in (
        (world / "probe" / "probe.json", VERBS["probe"][1]),
        (world / "curve" / "curve.json", VERBS["curve"][0]),
    ):
        whole = file.read_bytes()
        body = json.loads(whole)
        try:
            with contextlib.chdir(world):
                expected = answer(words)
                file.write_text(json.dumps({name: value for name, value in body.items() if name != "digest"}))
                assert answer(words)[0] == expected[0] == 0
                file.write_text(json.dumps({**body, "created": "another day"}))
                told = f"{file.relative_to(world)}: damaged, its digest does not match; restore it"
                status, text = answer(words)
                assert status == 1
                assert text.startswith(told)
        finally:
            file.write_bytes(whole)
