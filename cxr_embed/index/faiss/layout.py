"""Names, the record and the atomic step of an index's folder.

Layout of an index::

    index.json             what is indexed and how; digests of the generation's files; a digest of itself
    forgotten.json         whoever was taken out and is to stay out: keyed hashes, see `store.forgotten`
    writer.lock            held by the one writer (a kernel lock: a dead process does not keep it)
    generation-<hex>/      never changed once index.json names it
        cases.arrow        one row a case: ids and every column of the manifest but the files' paths
        vectors.npy        (N, D) float32 of unit length, row i for case i: exact
        tokens.npy         (N, T, D) float16 of unit length, where tokens are compared: then these are exact, and
                           vectors.npy holds their means
        checksums.npy      (1 or 2, N) uint32, CRC-32C of each row of vectors.npy and tokens.npy; not in indexes of
                           earlier releases
        vectors.faiss      proposes candidates; none for a flat index
        prompts.arrow      the store's prompts, where it has some

Replacing index.json publishes a generation; the one before is deleted after that. Beside the folder may lie its map
(`map_file`), which is deleted before index.json is replaced, unless the vectors stay as they are. Nothing in the folder
names a place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss.map_file import drop_other
from cxr_embed.io.digests import file_record, json_digest
from cxr_embed.io.files import not_local, sync, write_whole
from cxr_embed.store.forgotten import FORGOTTEN
from cxr_embed.types import EncoderSpec, counted

FORMAT, VERSION = "cxr_embed.index", 1
HEADER, LOCK = "index.json", "writer.lock"
CASES, VECTORS, CANDIDATES, PROMPTS = "cases.arrow", "vectors.npy", "vectors.faiss", "prompts.arrow"
TOKENS, CHECKSUMS = "tokens.npy", "checksums.npy"
_GENERATION = re.compile(r"generation-[0-9a-f]{12}")


@dataclass(frozen=True)
class Kind:
    """How candidates are found.

    Attributes:
        name: `flat` (every case is compared), `hnsw`, `ivf-fp16`, `ivf-sq8`, `ivf-pq` or, for tokens, `tokens-pq`.
        factory: what FAISS calls it; blank for `flat`.
        effort: lists that a query looks into (IVF), length of its list of candidates (HNSW), or candidates for each
            neighbour of an image (`tokens-pq`; 0: every case is compared).
        fetch: candidates that are compared in full precision for each neighbour that is wanted.
    """

    name: str
    factory: str = ""
    effort: int = 0
    fetch: int = 1


@dataclass(frozen=True)
class BuildOptions:
    """What the user chose, so that adding cases keeps to it.

    Attributes:
        kind: `auto`, or a kind's name.
        memory: bytes that the structure may take.
    """

    kind: str
    memory: int


@dataclass(frozen=True)
class MeasuredRecall:
    """What was measured when the index was built; None where nothing was.

    Attributes:
        recall: part of the true 10 nearest that are found, over a sample of cases.
        queries: in that sample.
        milliseconds: of one query, the middle one.
    """

    recall: float | None = None
    queries: int = 0
    milliseconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """`index.json`.

    Attributes:
        spec: the encoder of the vectors.
        output: of the encoder.
        pool: `none` for vectors `(D,)`; what was made of `(T, D)`: `mean`, or `tokens` where they stay as they are.
        cases: rows of every file.
        shape: of one case's vectors as they are indexed, `(D,)` or `(T, D)`.
        options: what the user chose; `wish` in the file.
        kind: how candidates are found.
        measured: how well.
        stores: identities of the stores that the cases came from, in the order in which they were added.
        generation: name of the folder.
        files: of the generation: name to size and SHA-256.
        created: UTC, ISO 8601.
        software: version that wrote it.
    """

    spec: EncoderSpec
    output: str
    pool: str
    cases: int
    shape: tuple[int, ...]
    options: BuildOptions
    kind: Kind
    measured: MeasuredRecall
    stores: tuple[Mapping[str, Any], ...]
    generation: str
    created: str
    software: str
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Canonical JSON with a digest over all of it."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "options"}
        body |= {
            "format": FORMAT,
            "version": VERSION,
            "spec": self.spec.to_json(),
            "fingerprint": self.spec.fingerprint,
            "wish": asdict(self.options),
            "kind": asdict(self.kind),
            "measured": asdict(self.measured),
        }
        body["digest"] = json_digest(body)
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, root: Path) -> IndexRecord:
        """Reads and checks `index.json`.

        Raises:
            CaseIndexError: where it is missing, of another format or version, or damaged.
        """
        path = root / HEADER
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise CaseIndexError(
                f"{root}: no index here ({HEADER} is missing); `cxr-embed index build STORE --out {root}` makes one"
            ) from None
        except OSError as error:
            raise CaseIndexError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            body = json.loads(data)
            if body.get("format") != FORMAT:
                raise CaseIndexError(f"{path}: not an index of this project (format {body.get('format')!r})")
            if body["version"] != VERSION:
                raise CaseIndexError(f"{path}: format version {body['version']}; this release reads {VERSION}")
            values = {name: body[name] for name in cls.__dataclass_fields__ if name != "options"}
            values |= {
                "spec": EncoderSpec.from_json(body["spec"]),
                "shape": tuple(body["shape"]),
                "options": BuildOptions(**body["wish"]),
                "kind": Kind(**body["kind"]),
                "measured": MeasuredRecall(**body["measured"]),
                "stores": tuple(body["stores"]),
            }
            record = cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CaseIndexError(f"{path}: damaged; build the index again") from None
        if record.to_bytes() != data or not _GENERATION.fullmatch(record.generation):
            raise CaseIndexError(f"{path}: damaged, its digest does not match; build the index again")
        return record

    def check_sizes(self, root: Path) -> None:
        """Compares the files' sizes with the record, which finds whatever was cut short or exchanged.

        Raises:
            CaseIndexError: naming the file.
        """
        for name, entry in self.files.items():
            path = root / self.generation / name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise CaseIndexError(
                    f"{path}: cannot be read ({error.strerror}); restore it, or build the index again"
                ) from None
            if size != entry["bytes"]:
                raise CaseIndexError(
                    f"{path}: {counted(size, 'byte')}, {HEADER} says {entry['bytes']}: the parts of this "
                    "index do not belong "
                    "together; restore it, or build it again"
                )

    @property
    def vectors_digest(self) -> str:
        """SHA-256 of `vectors.npy`: the key of the index's map."""
        return str(self.files[VECTORS]["sha256"])

    @property
    def nbytes(self) -> int:
        """Bytes of the generation's files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())


@contextmanager
def writing(root: Path) -> Iterator[Path]:
    """Holds the writer's lock and gives a new generation's folder, which is gone again unless it was published.

    What a killed writer left behind is deleted first: the lock says that nobody is at it.

    Raises:
        CaseIndexError: where another process writes, or the folder holds other things or cannot be written.
    """
    if (why := not_local(root)) is not None:
        raise CaseIndexError(why)
    try:
        if root.is_dir() and _foreign(root):
            raise CaseIndexError(f"{root}: a folder with other files in it; give a new folder for the index")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # of a new one: nobody else is to read of the cases
        lock = filelock.FileLock(root / LOCK)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise CaseIndexError(f"{root}: another process is writing to this index; wait for it") from None
    except OSError as error:
        raise CaseIndexError(f"{root}: cannot be written ({error.strerror})") from None
    folder = root / f"generation-{uuid.uuid4().hex[:12]}"
    try:
        clean(root)
        folder.mkdir()
        yield folder
    except OSError as error:
        raise CaseIndexError(
            f"{root}: cannot be written ({error.strerror or error}); what was there is as it was"
        ) from None
    finally:
        with contextlib.suppress(CaseIndexError, OSError):
            clean(root)
        if not (root / HEADER).exists():
            with contextlib.suppress(OSError):
                (root / LOCK).unlink()  # while it is held: nobody else can have taken it
                root.rmdir()
        lock.release()


def publish(root: Path, record: IndexRecord) -> IndexRecord:
    """Makes a complete generation the index: files are flushed, digests taken, index.json replaced, the rest deleted.

    Returns:
        The record with the files' digests.
    """
    folder = root / record.generation
    files = {path.name: file_record(path) for path in sorted(folder.iterdir())}
    for name in files:
        sync(folder / name)
    sync(folder)
    sync(root)
    complete = replace(record, files=files)
    drop_other(root, complete.vectors_digest)  # first: a kill leaves no position of a case that is gone
    write_whole(root / HEADER, complete.to_bytes())
    clean(root)
    return complete


def clean(root: Path) -> None:
    """Deletes whatever index.json does not name; only the holder of the lock may call it."""
    for path in leftovers(root):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    sync(root)


def leftovers(root: Path) -> list[Path]:
    """Generations and half-written records that index.json does not name: a writer was killed."""
    try:
        current = IndexRecord.read(root).generation
    except CaseIndexError:
        current = ""  # none yet, or damaged: only a build comes here then, and it replaces all
    return [
        Path(entry.path)
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name)
        if (_GENERATION.fullmatch(entry.name) and entry.name != current) or entry.name.startswith(f".{HEADER}.")
    ]


def _foreign(root: Path) -> bool:
    """Whether a folder holds what no index of this project left there."""
    if (root / HEADER).exists():
        return FORMAT.encode() not in (root / HEADER).read_bytes()
    known = {path.name for path in leftovers(root)} | {LOCK, FORGOTTEN}
    return any(entry.name not in known for entry in os.scandir(root))
