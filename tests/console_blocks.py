"""The documentation's console blocks: found, run as printed, and printed anew.

`python tests/console_blocks.py` runs every command of the README and of the pages under docs/ beside the real
radiographs, and writes what it prints into the page where that reads otherwise now (a number that differs does not).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher import Launcher

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- needs: (.*?) -->\n)?```console\n(.*?)```", re.DOTALL)
TREE = re.compile(r"```\{toctree\}\n(?::[^\n]*\n)*(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
# What differs from run to run: numbers that are measured, digests, the arithmetic that the processor has.
VARIES = re.compile(r"\[[0-9a-f]{12}\]|\b[0-9a-f]{16,64}\b|[-+−]?\d[\d.,:T+-]*(cu\d+|cpu\b)?|\b(bf16|float32)\b")
# What the installed extras change in the table of encoders.
INSTALLED = re.compile(r"\b(extra [\w-]+|weights|a checkpoint)(?=  )")


@dataclass(frozen=True)
class Shown:
    """A command of a page and the output under it."""

    page: Path
    needs: tuple[str, ...]  # modules beyond the core's
    command: str
    output: str
    place: tuple[int, int]  # of the output in the page's text


def pages() -> list[Path]:
    """The README, then the pages in the order of the site's menu: later commands use what earlier ones made."""
    menus = TREE.findall((ROOT / "docs" / "index.md").read_text())
    return [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for names in menus for name in names.split())]


def shown(extras: bool) -> Iterator[Shown]:
    """The commands of all pages in order: those of the core, or those that need more packages."""
    for page in pages():
        for block in BLOCK.finditer(page.read_text()):
            needs = tuple((block[1] or "").split())
            if bool(needs) is extras:
                for command in COMMAND.finditer(block[2]):
                    place = (block.start(2) + command.start(2), block.start(2) + command.end(2))
                    yield Shown(page, needs, command[1], command[2], place)


def missing_modules() -> list[str]:
    """The modules that some block needs and that are not installed here."""
    named = {name for each in shown(extras=True) for name in each.needs}
    return sorted(name for name in named if importlib.util.find_spec(name) is None)


def normal(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    lines = [INSTALLED.sub("#", line) for line in text.splitlines() if not line.startswith("machine  ")]
    return [" ".join(VARIES.sub("#", line).split()) for line in lines if line.strip()]


def run(extras: bool, real_data: Path, folder: Path) -> Iterator[tuple[Shown, str]]:
    """Runs the commands one after the other in `folder`, beside the real data; each with what it prints now.

    Raises:
        AssertionError: a command fails.
    """
    checkout = folder / "cxr-embed"
    checkout.mkdir()
    (folder / "shared").mkdir()
    (folder / "shared" / "data").symlink_to(real_data.resolve())
    for name in ("examples", "tests"):
        (checkout / name).symlink_to(ROOT / name)
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    launcher = Launcher(environment) if sys.platform == "linux" and not extras else None
    for each in list(shown(extras)):
        words = shlex.split(each.command.replace("\\\n", ""))
        if words[0] in ("export", "unset"):
            name, _, value = words[1].partition("=")
            environment[name] = value
            continue
        if words[0] == "cxr-embed" and launcher is not None and launcher.can_fork(environment):
            done = launcher.run(words[1:], checkout, environment)
        else:
            done = subprocess.run(
                words, cwd=checkout, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
        assert done.returncode == 0, f"{each.page.name}: $ {each.command}\n{done.stdout}{done.stderr}"
        yield each, done.stdout


def agrees(each: Shown, printed: str) -> bool:
    """Whether a page shows what its command prints. The README is short: what it leaves out is on other pages."""
    if not each.output and each.page.name == "README.md":
        return True
    return normal(printed) == normal(each.output)


def print_anew(changes: list[tuple[Shown, str]]) -> None:
    """Writes into the pages what their commands print now."""
    for each, printed in reversed(changes):  # so that the places of the others stay
        lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
        text = each.page.read_text()
        assert text[slice(*each.place)] == each.output, f"{each.page.name} has changed meanwhile"
        each.page.write_text(text[: each.place[0]] + lines + text[each.place[1] :])


def main() -> None:
    from conftest import real_data_folder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--extras", action="store_true", help="the blocks that need more packages, instead of the core's"
    )
    parser.add_argument(
        "--numbers", action="store_true", help="write what only differs in numbers too: on an idle machine"
    )
    arguments = parser.parse_args()
    data = real_data_folder()
    if data is None:
        sys.exit("no real radiographs here: set CXR_EMBED_REAL_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        changes: list[tuple[Shown, str]] = []
        try:
            for each, printed in run(arguments.extras, data, Path(folder)):
                same = agrees(each, printed) and not (arguments.numbers and each.output)
                changes += [] if same else [(each, printed)]
                print("the same    " if same else "printed anew", each.page.name, " ".join(each.command.split())[:80])
        finally:
            print_anew(changes)


if __name__ == "__main__":
    main()
