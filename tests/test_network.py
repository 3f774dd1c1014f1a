"""No verb talks to a host or looks one up, and the home folder holds afterwards only what the docs say.

`docs/patients-and-privacy.md` has the list. Every verb runs with no network (in a namespace of its own where that is
allowed) and is watched twice: by strace, which sees what C libraries do too, and by Python's audit hook, which is all
there is where strace may not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import every_verb
import pytest

TESTS = Path(__file__).parent
# Loaded by every interpreter that is started: whatever Python itself sends or asks for is written down.
HOOK = """
import os, sys
def hook(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        told = args[-1] if event in ("socket.connect", "socket.sendto", "socket.sendmsg") else args[0]
        if isinstance(told, (tuple, str)) and not str(told).startswith(("('127.", "('::1'", "localhost", "/")):
            with open(os.environ["SEEN"], "a") as file:
                file.write(f"{event} {told}\\n")
sys.addaudithook(hook)
"""
OTHERS = re.compile(
    r'htons\(53\)|/etc/hosts"|/systemd/resolve/'  # a name is looked up
    r'|AF_INET, .*inet_addr\("(?!127\.)|AF_INET6, .*inet_pton\(AF_INET6, "(?!::1"|::ffff:127\.)'
)
CALLS = "trace=connect,sendto,sendmsg,sendmmsg,openat"


def works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, sys.executable, "-c", ""], capture_output=True).returncode == 0


def watch(command: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs a command with no network; what it did, and each attempt to reach or look up a host."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    traced, seen = folder / "strace.txt", folder / "seen.txt"
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "64", "-e", CALLS, "-o", str(traced)]
    around = alone if works(*alone) else []
    if works(*around, *strace):
        around += strace
    else:
        warnings.warn("strace may not run here: what C libraries send was not watched", stacklevel=2)
    # A network that is not there makes some libraries give up before they ask: both are looked for by name.
    paths = os.pathsep.join([str(folder / "hook"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "SEEN": str(seen)}
    done = subprocess.run([*around, *command], cwd=folder, env=environment, capture_output=True, text=True)
    found = seen.read_text().splitlines() if seen.exists() else []
    if traced.exists():
        found += [line for line in traced.read_text(errors="replace").splitlines() if OTHERS.search(line)]
    return done, found


@pytest.mark.parametrize("code", ["getaddrinfo('example.org', 80)", "socket().connect(('192.0.2.1', 80))"])
def test_the_watch_sees_hosts(tmp_path: Path, code: str) -> None:
    _, seen = watch([sys.executable, "-c", f"import socket; s = socket; s.{code}"], tmp_path)
    assert any(name in line for line in seen for name in ("example.org", "192.0.2.1"))


def check(tmp_path: Path, left_at_home: set[str], *words: str) -> None:
    command = [sys.executable, str(TESTS / "every_verb.py"), str(tmp_path / "world"), *words]
    done, seen = watch(command, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "verbs that were not run: none" in (done.stdout if words else done.stdout.replace(NEED_EXTRAS, "none"))
    assert seen == []
    home = Path(os.environ["HOME"])
    left = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    plain = {re.sub(r"fontlist-.*", "fontlist", name) for name in left}
    assert {re.sub(r"(facts|networks)/.*", r"\1", name) for name in plain} <= left_at_home


AT_HOME = {".config/cxr-embed/patient-id.key", ".cache/matplotlib/fontlist"}
NEED_EXTRAS = "index map, index push, manifest croissant, serve, weights convert"


def test_every_verb_of_the_core_reaches_no_host(tmp_path: Path) -> None:
    check(tmp_path, AT_HOME)


@pytest.mark.soak
def test_every_verb_reaches_no_host(tmp_path: Path) -> None:
    if not every_verb.has("torch", "transformers", "pymilvus", "milvus_lite", "tensorflow", "mlcroissant"):
        pytest.skip("needs the extras: make soak EXTRAS=dev,peers,cxr-foundation,milvus,monai,croissant,explain")
    kept = {".keras/keras.json", ".cache/cxr-embed/facts", ".cache/cxr-embed/networks"}
    check(tmp_path, {*AT_HOME, *kept}, "extras")
