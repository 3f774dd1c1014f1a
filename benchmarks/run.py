"""Runs the benchmarks and prints the tables of docs/benchmarks.md.

python benchmarks/run.py [PART ...]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import duplicates
import encoder
import evaluate
import foundation
import index
import maps
import milvus
import probe
import serve
import storage
import tokens
import torch_encoders
import zeroshot
from common import Line, machine

PARTS: dict[str, Callable[[Path], list[Line]]] = {
    "encoder": encoder.run,
    "rerun": storage.second_run,
    "memory": storage.memory,
    "million": storage.million,
    "checks": storage.checks,
    "zeroshot": zeroshot.run,
    "probe": probe.run,
    "evaluate": evaluate.run,
    "index": index.run,
    "tokens": tokens.run,
    "duplicates": duplicates.run,
    "milvus": milvus.run,
    "serve": serve.run,
    "install": storage.install,
    "foundation": foundation.run,
    "torch-encoders": torch_encoders.run,
    "maps": maps.run,
    "gpu": encoder.gpu,
}


def main() -> None:
    """Runs the named parts, by default all that this machine can."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all, gpu only where there is one")
    chosen = parser.parse_args().parts
    if not chosen:
        import torch

        chosen = [part for part in PARTS if part != "gpu" or torch.cuda.is_available()]
    lines: list[Line] = []
    for part in chosen:
        with tempfile.TemporaryDirectory(prefix="cxr-embed-benchmark-") as folder:
            found = PARTS[part](Path(folder))
        lines += found
        for line in found:
            print(f"{line.what}: {line.measured} (goal {line.goal})", flush=True)
    print("\n| | goal | measured |\n|---|---|---|")
    for line in lines:
        print(f"| {line.what} | {line.goal} | {line.measured} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
