"""The tour behind `make demo`: a folder of radiographs to a verified store, each command printed as you would type it.

python examples/demo.py [--images DIR] [--out demo]
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def say(*command: str) -> int:
    """Prints a command, runs it, and returns its status."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = [str(Path(sys.executable).with_name("cxr-embed")) if command[0] == "cxr-embed" else sys.executable]
    return subprocess.run([*program, *command[1:]]).returncode


def main() -> None:
    """Runs the tour; stops at the first command that fails for another reason than a broken file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="your own folder; synthetic chests are drawn without one")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    # Your own images share no store with the drawings, nor with those of another folder.
    out = options.out / "own" / options.images.resolve().name if options.images else options.out
    out.mkdir(parents=True, exist_ok=True)
    images, manifest, store = options.images or out / "chests", out / "manifest.csv", out / "hog"
    if options.images is None:
        drawn = say("python", str(HERE / "synthetic_chests.py"), str(images), "--count", "24")
        if drawn:
            raise SystemExit(drawn)
    # The drawings carry their patient in the name; of your own files only DICOM headers are asked.
    naming = [] if options.images else ["--patient-pattern", r"(synthetic-\d+)"]
    if status := say("cxr-embed", "manifest", "scan", str(images), "--out", str(manifest), *naming):
        raise SystemExit(status)
    status = say("cxr-embed", "embed", str(manifest), "--root", str(images), "--encoder", "hog", "--store", str(store))
    if not (store / "store.json").is_file():
        raise SystemExit(status or 1)
    checked = say("cxr-embed", "store", "verify", str(store)) or say("cxr-embed", "store", "info", str(store))
    print("\nRun it again: nothing is embedded twice. Next: README.md.")
    raise SystemExit(checked or status)


if __name__ == "__main__":
    main()
