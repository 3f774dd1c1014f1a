"""A manifest's companion: `nih.json` beside `nih.csv` says what the table itself cannot.

Which columns are not findings, what a blank cell means, where the radiographs are, where it all comes from: declared
once, when a manifest is made, and read by whatever reads the manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from cxr_embed.choices import Blank
from cxr_embed.errors import ManifestError
from cxr_embed.io.addresses import address_of, shown_address
from cxr_embed.io.digests import file_sha256
from cxr_embed.io.files import write_whole
from cxr_embed.io.times import utc_now
from cxr_embed.manifest.rows import reason
from cxr_embed.version import __version__

FORMAT, VERSION = "cxr_embed.manifest", 1
_LARGEST = 1 << 20  # bytes of a companion
_SUFFIXES = (".csv.gz", ".csv", ".parquet")
# What every companion says of itself, before what it says of the data.
_HEAD = ("format", "version", "manifest", "sha256", "written", "tool")


@dataclass(frozen=True, kw_only=True)
class Companion:
    """What is known of a manifest as a whole; blank where nobody said.

    Attributes:
        recipe, title: of the data set, as `manifest scan` takes it and in words.
        not_findings: columns that are neither known to every manifest nor findings.
        blank: what a blank cell of a finding means: `unknown`, or `negative`.
        blank_words, uncertain_words: the data set's own words of what blank and -1 mean.
        root: the folder that `path` is relative to; from the companion's own folder unless it is absolute. None for
            the manifest's own folder.
        boxes: the file of boxes, from the companion's own folder.
        terms, licence, source, citation: of the data set.
        labels: where a data set has several labels for one image, which of them these are.
        alternatives: the others, as the recipe names them.
        manifest: the name of the file that it was written for.
        sha256: of that file's bytes then.
        written: when, UTC, ISO 8601.
        tool: what wrote it.
    """

    recipe: str = ""
    title: str = ""
    not_findings: tuple[str, ...] = ()
    blank: Blank = "unknown"
    blank_words: str = ""
    uncertain_words: str = ""
    root: str | None = None
    boxes: str | None = None
    terms: str = ""
    licence: str = ""
    source: str = ""
    citation: str = ""
    labels: str = ""
    alternatives: tuple[str, ...] = ()
    manifest: str = ""
    sha256: str = ""
    written: str = ""
    tool: str = ""

    def facts(self) -> dict[str, Any]:
        """What it says of the data, as plain JSON values, without what is blank."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: value for name, value in values.items() if name not in _HEAD and value not in ("", None, [])}


def companion_path(manifest: str | os.PathLike[str]) -> Path:
    """Where a manifest's companion is, if it has one: `nih.json` for `nih.csv`, `nih.csv.gz` and `nih.parquet`."""
    path = Path(manifest)
    suffix = next((end for end in _SUFFIXES if path.name.lower().endswith(end)), path.suffix)
    return path.with_name(f"{path.name[: len(path.name) - len(suffix)]}.json")


def root_of(companion: Companion | None, manifest: str | os.PathLike[str]) -> Path:
    """The folder that a manifest's paths are relative to, as far as its companion says."""
    folder = Path(manifest).parent
    return folder / companion.root if companion is not None and companion.root is not None else folder


def relative_root(root: str | os.PathLike[str], manifest: str | os.PathLike[str]) -> str | None:
    """A folder as a companion names it: from the manifest's own, so that both can move together; None for that one.

    Raises:
        ManifestError: for an address: whoever reads a manifest says so if a server is to be asked.
    """
    if (address := address_of(root)) is not None:
        raise ManifestError(
            f"{shown_address(address)}: a companion names folders of this machine; leave out `root` here, and give it "
            "to the verb that reads the radiographs"
        )
    # The real folders: a way up from a link leads elsewhere.
    found = Path(os.path.relpath(os.path.realpath(root), os.path.realpath(Path(manifest).parent))).as_posix()
    return None if found == "." else found


def read_companion(manifest: str | os.PathLike[str]) -> tuple[Companion | None, tuple[str, ...]]:
    """What a manifest's companion says, and sentences on whether it still holds; None where there is none.

    Another JSON of its name is left alone.

    Raises:
        ManifestError: for a companion that is damaged or of a newer release.
    """
    path = companion_path(manifest)
    body = _body_of(path)
    if body is None:
        return None, ()
    found = _checked(path, body)
    own, folder = Path(manifest).name, path.parent
    try:
        same = file_sha256(manifest) == found.sha256
    except OSError:  # the table's own reader says it
        return found, ()
    if same:
        return found, ()
    if _is_of_another(found, own, folder):
        return None, (f"{path.name} is the companion of {found.manifest}: what it says is not used for {own}",)
    since = f" since {path.name} was written for it ({found.written[:10]})"
    return found, (f"{own} has changed{since}; see `cxr-embed manifest validate`",)


def _is_of_another(companion: Companion, own: str, folder: Path) -> bool:
    """Whether it was written for another table beside this one: `nih.csv` and `nih.parquet` have one name for it."""
    name = Path(companion.manifest).name
    if name in ("", own) or companion_path(name).name != companion_path(own).name:
        return False
    return os.path.exists(folder / name)


def write_companion(manifest: str | os.PathLike[str], companion: Companion, *, replaces: bool = False) -> Path:
    """Writes a manifest's companion beside it, with the manifest's digest as it is now, and gives its path.

    A companion that says the same stays as it is.

    Args:
        manifest: that was written already.
        companion: what to say of it; its name, digest, date and tool are filled in here.
        replaces: whether a companion that says something else goes; other files never do.

    Raises:
        ManifestError: where another file has its name, the manifest cannot be read, or it cannot be written.
    """
    path = companion_path(manifest)
    check_new_companion(manifest, companion, replaces=replaces)
    try:
        record = {"manifest": Path(manifest).name, "sha256": file_sha256(manifest)}
        there = _body_of(path)
        same = there is not None and _checked(path, there).facts() == companion.facts()
        if there is not None and same and all(there.get(name) == value for name, value in record.items()):
            return path
        stamped = {"format": FORMAT, "version": VERSION, **record, "written": utc_now()}
        stamped |= {"tool": f"cxr-embed {__version__}", **_plain(companion)}
        write_whole(path, _as_text(stamped))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({reason(error)}); give another `out`") from None
    return path


def check_new_companion(manifest: str | os.PathLike[str], companion: Companion, *, replaces: bool = False) -> None:
    """Refuses what `write_companion` could not write because of what is there already.

    Raises:
        ManifestError: for another file of its name, or a companion that says something else.
    """
    path = companion_path(manifest)
    if not os.path.lexists(path):
        return
    body = _body_of(path)
    if body is None:
        what = "which is not a manifest's companion"
    elif (there := _checked(path, body).facts()) != companion.facts() and not replaces:
        differs = [name for name in _names() if there.get(name) != companion.facts().get(name)]
        what = f"and it says something else ({', '.join(differs)})"
    else:
        return
    raise ManifestError(f"{path}: there already, {what}; give another `out`, or remove the file first")


@contextmanager
def kept_fresh(manifest: str | os.PathLike[str]) -> Iterator[None]:
    """While a manifest is changed by us: its companion, if it fitted before, gets the new digest afterwards.

    Raises:
        ManifestError: where it cannot be written.
    """
    path = companion_path(manifest)
    try:
        body = _body_of(path)
        fitted = body is not None and body.get("sha256") == file_sha256(manifest)
    except (ManifestError, OSError):  # a damaged companion keeps nobody from changing the table
        body, fitted = None, False
    yield
    if body is None or not fitted:
        return
    try:
        write_whole(path, _as_text({**body, "sha256": file_sha256(manifest)}))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({reason(error)})") from None


def moved(companion: Companion | None, source: str | os.PathLike[str], copy: str | os.PathLike[str]) -> Companion:
    """What is to be said of a manifest that has rows of another one and may lie elsewhere.

    Args:
        companion: of the source; None where it has none.
        source, copy: paths of both manifests.
    """
    known = companion or Companion()
    boxes = relative_root(Path(source).parent / known.boxes, copy) if known.boxes is not None else None
    return replace(known, root=relative_root(root_of(companion, source), copy), boxes=boxes)


def _plain(companion: Companion) -> dict[str, Any]:
    return {name: value for name, value in json.loads(json.dumps(asdict(companion))).items() if name not in _HEAD}


def _as_text(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n"


def _names() -> list[str]:
    return [field.name for field in fields(Companion) if field.name not in _HEAD]


def _body_of(path: Path) -> dict[str, Any] | None:
    """A companion's JSON as it is; None where there is none, or another file.

    Raises:
        ManifestError: where it cannot be read, or is one that was damaged.
    """
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({reason(error)})") from None
    if len(data) > _LARGEST:
        return None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        # An interrupted copy leaves the beginning of a file, or zeros.
        if FORMAT.encode() in data or not data.strip(b"\0 \r\n\t"):
            raise _damaged(path, "not JSON") from None
        return None
    return body if isinstance(body, dict) and body.get("format") == FORMAT else None


def _damaged(path: Path, why: str) -> ManifestError:
    return ManifestError(f"{path}: a manifest's companion, damaged ({why}); restore it, or remove it and scan again")


def _checked(path: Path, body: dict[str, Any]) -> Companion:
    """A companion of its JSON.

    Raises:
        ManifestError: for a newer one, or values that cannot be.
    """
    version = body.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
        raise ManifestError(
            f"{path}: a manifest's companion of version {version}, this release reads {VERSION}; update cxr-embed"
        )
    if version != VERSION or isinstance(version, bool):
        raise _damaged(path, f"version {version!r}")
    given = {name: value for name, value in body.items() if name not in ("format", "version")}
    known = {field.name: field.default for field in fields(Companion)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise _damaged(path, f"{unknown[0]!r} is unknown")
    for name, value in given.items():
        if problem := _problem(name, value, known[name]):
            raise _damaged(path, f"{name} is not {problem}")
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return Companion(**{**given, **lists})


def _problem(name: str, value: Any, default: Any) -> str:
    """What a value should be, in words, where it is something else."""
    if name == "blank":
        return "" if value in get_args(Blank) else " or ".join(get_args(Blank))
    if isinstance(default, tuple):
        fits = isinstance(value, list) and all(isinstance(each, str) and each for each in value)
        return "" if fits else "a list of names"
    if default is None and value is None:
        return ""
    return "" if isinstance(value, str) and "\0" not in value else "text"


def unknown_columns(companion: Companion, names: Sequence[str], manifest: str | os.PathLike[str]) -> list[str]:
    """The problems of columns that a companion names and the manifest does not have."""
    return [
        f"{companion_path(manifest).name}, not_findings {name}: the manifest has no such column"
        for name in companion.not_findings
        if name not in names
    ]
