"""Prompt vectors in the store's folder: a store takes them along to a machine that has no model.

One file, `prompts.arrow`, rewritten as a whole under the writer's lock: the prompts' text, their vectors, where each
came from; in its metadata the encoder's fingerprint and a digest over all of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_embed.errors import StoreError
from cxr_embed.io.digests import canonical_json, sha256_hex
from cxr_embed.io.files import write_whole
from cxr_embed.store.layout import Header
from cxr_embed.store.presence import alone
from cxr_embed.store.reader import Store
from cxr_embed.types import EncoderSpec, counted

PROMPTS = "prompts.arrow"
_FORMAT = b"cxr_embed.prompts 1"
CUT = "; only its beginning was read"  # in a prompt's source, where its text was longer than the model reads
LOWERED = "; read in lower case"  # in a prompt's source, where the encoder was trained on lower case alone
_EMBEDDED = "embedded by "
_UNLEARNED = "; words that it never learned: "  # in a prompt's source, before the words
_NAMED = 3  # prompts that an error message names before it only counts


@dataclass(frozen=True)
class Prompts:
    """Prompts that a store holds the vectors of.

    Attributes:
        prompts: their text, letter for letter as it was embedded.
        vectors: `(P, D)` float32, row i for prompt i; not of unit length.
        sources: `P` words on where each vector came from.
        left_out: further prompts of the file whose vectors are of no use: embedded with their capitals by a release up
            to 0.4, for an encoder that was trained on lower case alone. Adding prompts drops them from the file.
    """

    prompts: tuple[str, ...]
    vectors: np.ndarray
    sources: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def with_capitals(self) -> tuple[str, ...]:
        """Those that an encoder of this package embedded with their capitals."""
        return tuple(
            prompt
            for prompt, source in zip(self.prompts, self.sources, strict=True)
            if prompt != prompt.lower() and source.startswith(_EMBEDDED) and LOWERED not in source
        )

    def without(self, left_out: Sequence[str]) -> Prompts:
        """All but some, which `left_out` then names."""
        if not left_out:
            return self
        kept = [row for row, prompt in enumerate(self.prompts) if prompt not in set(left_out)]
        prompts, sources = ([column[row] for row in kept] for column in (self.prompts, self.sources))
        return Prompts(tuple(prompts), self.vectors[kept], tuple(sources), tuple(left_out))

    def digest(self, fingerprint: str) -> bytes:
        """64 hexadecimal digits over texts, vectors, sources and the encoder's fingerprint."""
        texts = canonical_json([fingerprint, self.prompts, self.sources])
        values = np.ascontiguousarray(self.vectors, dtype="<f4").tobytes()
        return sha256_hex(len(texts).to_bytes(8, "little") + texts + values).encode()


def embedded_source(spec: EncoderSpec, engine: str) -> str:
    """Where the vector of a prompt came from that an encoder embeds now."""
    lowered = spec.text is not None and spec.text.words == "lower"
    return f"{_EMBEDDED}{spec.name}, {engine}" + (LOWERED if lowered else "")


def outdated(kept: Prompts, kept_for: EncoderSpec, now: EncoderSpec | None) -> tuple[str, ...]:
    """Prompts that must be embedded anew: kept with their capitals for an encoder that reads lower case.

    Args:
        kept: as they were read; what its reader knew to be of no use is no longer among them.
        kept_for: the spec that they were kept for. Written by an earlier release, it says nothing of capitals.
        now: the text model's own spec, where it was loaded.
    """
    lower = now is not None and now.text is not None and now.text.words == "lower"
    return kept.with_capitals if lower and _says_nothing(kept_for) else ()


def capitals_note(kept: Prompts, kept_for: EncoderSpec, wanted: Iterable[str]) -> tuple[str, ...]:
    """A sentence where prompts are used of which nobody knows here whether their capitals should count."""
    unsure = sorted(set(wanted) & set(kept.with_capitals)) if _says_nothing(kept_for) else []
    if not unsure:
        return ()
    return (
        f"{counted(len(unsure), 'prompt')}, the first {unsure[0][:60]!r}, may have been embedded with "
        f"{'its' if len(unsure) == 1 else 'their'} capitals by an earlier release: if {kept_for.name} is a SigLIP 2, "
        "write prompts in lower case",
    )


def _says_nothing(spec: EncoderSpec) -> bool:
    """Whether a SigLIP's record does not say if it is a SigLIP 2. MedSigLIP, known by name, is none."""
    named = spec.name.startswith("hf:") and bool(spec.weights)
    return named and spec.text is not None and spec.text.kind == "siglip" and not spec.text.words


def prompt_source(came: str, unlearned: Sequence[str]) -> str:
    """Where a prompt's vector came from, with the words of it that the encoder only guessed."""
    return came + (_UNLEARNED + " ".join(unlearned) if unlearned else "")


def unlearned_words(source: str) -> tuple[str, ...]:
    """The words of a prompt that its encoder never learned, as its source has them."""
    return tuple(source.partition(_UNLEARNED)[2].split())


def prompt_width(spec: EncoderSpec, where: str | os.PathLike[str]) -> int:
    """How many numbers a prompt's vector has, to lie in one space with a store's image vectors.

    Raises:
        StoreError: where the vectors at `where` lie in no space with prompts.
    """
    if spec.text is None:
        raise StoreError(
            f"{where}: its vectors are {', '.join(spec.outputs)} of {spec.name}, which no prompt can be compared with; "
            "`cxr-embed encoders` says which encoders embed prompts"
        )
    if spec.text.output not in spec.outputs:
        raise StoreError(
            f"{where}: prompts are compared with the output {spec.text.output}, the store holds "
            f"{', '.join(spec.outputs)}; embed into another `store` with `outputs` {spec.text.output}"
        )
    return spec.outputs[spec.text.output][-1]


def check_prompts(
    spec: EncoderSpec, prompts: Sequence[str], vectors: np.ndarray, where: str | os.PathLike[str]
) -> np.ndarray:
    """Prompt vectors as `(P, D)` float32, if a store at `where` can take them.

    Raises:
        StoreError: for blank or repeated prompts, another number or width of vectors, vectors that are not finite or
            zero.
    """
    width = prompt_width(spec, where)
    with np.errstate(over="ignore"):
        array = np.asarray(vectors).astype(np.float32)
    if array.shape != (len(prompts), width):
        expected = (len(prompts), width)
        raise StoreError(f"{where}: prompt vectors of {spec.name} have the shape {expected} here, got {array.shape}")
    finite = [bool(np.isfinite(vector).all()) for vector in array]
    directed = [bool(vector.any()) for vector in array]
    faults = {
        "blank prompts, or no text": [prompt for prompt in prompts if not _is_text(prompt)],
        "prompts given twice": [prompt for prompt, count in Counter(prompts).items() if count > 1],
        "prompts whose vectors are not finite (NaN or infinite)": [
            prompt for prompt, sound in zip(prompts, finite, strict=True) if not sound
        ],
        "prompts whose vectors are zero, which has no direction": [
            prompt for prompt, sound in zip(prompts, directed, strict=True) if not sound
        ],
    }
    for what, wrong in faults.items():
        if wrong:
            shown = ", ".join(map(repr, wrong[:_NAMED])) + (", ..." if len(wrong) > _NAMED else "")
            raise StoreError(f"{where}: {what}: {shown}")
    return array


def _is_text(prompt: str) -> bool:
    # A lone surrogate is not a text that a file can hold.
    return bool(prompt.strip()) and prompt.encode(errors="ignore").decode() == prompt


def read_prompts(store: Store) -> Prompts:
    """The prompts that a store holds, as they were when this is called; none where it holds no file of them.

    Vectors of an earlier release that this encoder's text rule does not allow are left out and named in `left_out`.

    Raises:
        StoreError: for a store whose vectors have no text, a damaged file, or one of another encoder.
    """
    return load_prompts(store.path, store.header)


def load_prompts(root: Path, header: Header) -> Prompts:
    """`read_prompts` for a store that is not open."""
    path, width = root / PROMPTS, prompt_width(header.spec, root)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Prompts((), np.empty((0, width), np.float32), ())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)
        metadata = table.schema.metadata or {}
        fingerprint = metadata[b"fingerprint"].decode()
        flat = table["vector"].combine_chunks()
        vectors = np.array(flat.flatten(), dtype=np.float32).reshape(len(table), -1)
        prompts = Prompts(tuple(table["prompt"].to_pylist()), vectors, tuple(table["source"].to_pylist()))
        sound = metadata[b"format"] == _FORMAT and metadata[b"digest"] == prompts.digest(fingerprint)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        sound = False
    if not sound:
        raise StoreError(
            f"{path}: damaged; delete it (image vectors are elsewhere) and embed or import its prompts again"
        )
    if fingerprint != header.spec.fingerprint:
        name = metadata[b"encoder"].decode()
        raise StoreError(
            f"{path}: prompts of {name} [{fingerprint[:12]}] in a store of {header.spec.name} "
            f"[{header.spec.fingerprint[:12]}]; another store's file was copied here: delete it"
        )
    lower = header.spec.text is not None and header.spec.text.words == "lower"
    return prompts.without(prompts.with_capitals) if lower else prompts


def add_prompts(
    path: str | os.PathLike[str], prompts: Sequence[str], vectors: np.ndarray, source: str | Sequence[str]
) -> Prompts:
    """Adds prompt vectors to a store; a prompt that it holds already gets the new vector.

    Args:
        path: the store's folder.
        prompts: P different texts.
        vectors: `(P, D)`, D being the last axis of the output that the encoder's text rule names.
        source: where the vectors came from, for people: `embedded by ...`, `imported from ...`; one of all, or P.

    Returns:
        All prompts of the store.

    Raises:
        StoreError: what `check_prompts` and `read_prompts` raise; also where another process writes to the store, or
            the store cannot be written. The store is then as it was.
    """
    root = Path(path)
    header = Header.read(root)
    array = check_prompts(header.spec, prompts, vectors, root)
    try:
        with alone(root, "prompts"):
            # A killed writer's leftovers: nobody is at them.
            for leftover in root.glob(f".{PROMPTS}.*"):
                leftover.unlink(missing_ok=True)
            known = load_prompts(root, header)
            merged = {
                prompt: (vector, came)
                for prompt, vector, came in zip(known.prompts, known.vectors, known.sources, strict=True)
            }
            sources = [source] * len(prompts) if isinstance(source, str) else source
            merged.update(zip(prompts, zip(array, sources, strict=True), strict=True))
            result = Prompts(
                tuple(merged),
                np.stack([vector for vector, _ in merged.values()]) if merged else array,
                tuple(came for _, came in merged.values()),
            )
            if len(prompts):
                write_whole(root / PROMPTS, _to_bytes(result, header.spec))
    except OSError as error:
        raise StoreError(
            f"{root / PROMPTS}: cannot be written ({error.strerror}); what was there is as it was"
        ) from None
    return result


def join_prompts(root: Path, prompts: Prompts) -> None:
    """Adds another store's prompts to a store; of one that it has, its own vector stays.

    Raises:
        StoreError: as `add_prompts`.
    """
    new = prompts.without(load_prompts(root, Header.read(root)).prompts)
    if len(new):
        add_prompts(root, new.prompts, new.vectors, new.sources)


def _to_bytes(prompts: Prompts, spec: EncoderSpec) -> bytes:
    schema = pa.schema(
        [
            pa.field("prompt", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), prompts.vectors.shape[1]), nullable=False),
            pa.field("source", pa.string(), nullable=False),
        ],
        metadata={
            b"format": _FORMAT,
            b"encoder": spec.name.encode(),
            b"fingerprint": spec.fingerprint.encode(),
            b"digest": prompts.digest(spec.fingerprint),
        },
    )
    flat = pa.array(np.ascontiguousarray(prompts.vectors).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, prompts.vectors.shape[1])
    columns = [pa.array(prompts.prompts, pa.string()), vectors, pa.array(prompts.sources, pa.string())]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
