"""The nouns of this project: small frozen records that every other module speaks in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from cxr_embed.grids import Grid
from cxr_embed.io.digests import json_digest

Precision = Literal["float32", "bf16"]
# What is odd about a file that was read all the same; `images.notes` has the sentences.
ImageNote = Literal["window", "rescale", "range", "aspect", "colour", "lateral"]
# Stands wherever results are shown.
RESEARCH = "For research; not a medical device."
# A column of score files: 1 where a probe learned from the image's patient, so that no evaluation takes it for a test.
LEARNED = "learned_from"
# Another one: 1 in every row where the weights of the vectors behind the scores stand in for a trained model's.
STAND_IN = "stand_in"
_UNTRAINED = ("random numbers", "not a trained model", "stand-in")  # what sources of such weights say of themselves
_DEMONSTRATION = "a demonstration"
DEMONSTRATES = "{} is a demonstration and stands in for a foundation model: its figures are not what one would reach"
# Sentences on stand-ins and on licences that bind, as they are read, for the command line to print at a verb's end.
_STAND_INS_READ: ContextVar[dict[str, None] | None] = ContextVar("stand_ins_read", default=None)
_LICENCES_READ: ContextVar[dict[str, None] | None] = ContextVar("licences_read", default=None)


def age_in_years(text: str) -> int | None:
    """Whole years of an age string, `nnnY`, `nnnM`, `nnnW` or `nnnD` (PS3.5, 6.2), or of a number; None of others."""
    match = re.fullmatch(r"([0-9]{1,3})([YMWD]?)", text.upper())
    if not match:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    years = int(match[1]) // per_year
    return years if years <= 130 else None  # a manifest refuses more


_LATERAL = re.compile(r"(?<![A-Z])(LL|RL|[LR]?LAT|[LR]?LATERAL)(?![A-Z])")
_NOT_LATERAL = re.compile(r"DECUB|LLD|RLD|OBLIQUE|LATERALITY")


def is_lateral(view: str) -> bool:
    """Whether words on a view say lateral, as headers and tables of public data sets do: `LL`, `LATERAL`, `L`.

    A lateral decubitus is a frontal view of a patient who lies on a side. `L` says it alone only.
    """
    text = view.upper().strip()
    return text == "L" or (_LATERAL.search(text) is not None and not _NOT_LATERAL.search(text))


@dataclass(frozen=True)
class DicomFields:
    """The only values that leave a DICOM header: no names, no birth dates, no identifiers in clear.

    Attributes:
        modality: `CR`, `DX`, ... as in (0008,0060); empty where the file has none.
        view: ViewPosition (0018,5101) in capitals, e.g. `PA`; `LATERAL` where another field says so.
        study_date: ISO date, `YYYY-MM-DD`.
        age: years, rounded down.
        sex: `M`, `F` or `O`.
    """

    modality: str = ""
    view: str = ""
    study_date: str = ""
    age: int | None = None
    sex: str = ""


@dataclass(frozen=True, kw_only=True)
class CxrImage:
    """One radiograph, decoded.

    Attributes:
        pixels: `(H, W)` uint8 or uint16, brighter = denser (the MONOCHROME2 convention).
        bits: significant bits; pixel values lie in `0 .. 2**bits - 1`.
        content_id: SHA-256 of the file's bytes, 64 hexadecimal digits.
        source: `png`, `jpeg`, `tiff`, `dicom` or `raw` (JSRT's).
        fields: from a DICOM header; empty for other formats.
        notes: what is odd about the file, though it was read; `images.NOTES` has a sentence for each.
        identifying: a DICOM header says that the pixels themselves show who it is: text that is burnt in, or a face.
    """

    pixels: np.ndarray
    bits: int
    content_id: str
    source: str
    fields: DicomFields = field(default_factory=DicomFields)
    notes: tuple[ImageNote, ...] = ()
    identifying: bool = False

    @property
    def max_value(self) -> int:
        """The largest value a pixel can have: `2**bits - 1`."""
        return int(2**self.bits - 1)


@dataclass(frozen=True)
class Stamp:
    """What the file system says of a file: unchanged, so is the file; zeros: not known. `ctime_ns` < 0: of an ETag."""

    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True)
class TextRule:
    """How an encoder's image vectors are compared with its prompt vectors; what zero-shot needs to know without it.

    Attributes:
        output: the image output that lies in one space with the prompts.
        kind: `elixr` (largest cosine over the image's tokens; Xu et al., 2023, arXiv 2308.01317), `clip`
            (scale x cosine; Radford et al., 2021), `siglip` (scale x cosine + bias; Zhai et al., 2023) or `cosine`
            (the cosine alone, for encoders whose authors give no scale).
        scale, bias: of the logit. 1 and 0 where a rule has none.
        words: `lower` where every prompt is read in lower case, as the encoder was trained (SigLIP 2); `as typed` where
            the encoder's tokenizer alone decides; blank where nothing of the kind is recorded (earlier releases).
    """

    output: str
    kind: Literal["elixr", "clip", "siglip", "cosine"]
    scale: float = 1.0
    bias: float = 0.0
    words: Literal["", "as typed", "lower"] = ""

    def to_json(self) -> dict[str, Any]:
        """The rule as plain JSON values; `words` stands there only where it says something, as in older records."""
        value = asdict(self)
        return value if self.words else {key: part for key, part in value.items() if key != "words"}


@dataclass(frozen=True)
class ClassRule:
    """What an encoder's own classifier answers; what reading its answers from a store takes without the model.

    Attributes:
        output: the output that holds them, as logits: float16 keeps their order, and would make probabilities near
            0.5 or 1 equal.
        names: the C findings, in the order of the output's values.
        operating_points: of each finding, the probability that its publishers count as 0.5; empty where none are known.
    """

    output: str
    names: tuple[str, ...]
    operating_points: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What an encoder computes. Two encoders with one fingerprint give the same vectors up to rounding.

    Attributes:
        name: the name in the encoder table, e.g. `densenet121`.
        revision: of this project's code for the encoder; rises when its vectors change.
        preprocessing: the pixel recipe, in words precise enough to tell two recipes apart.
        outputs: name to shape of one image's vector, e.g. `{"features": (1024,)}`; the first is the default.
        weights: digest of the weights' values, empty for an encoder without weights.
        weights_source: where the weights came from, for people; not part of the fingerprint.
        text: how its vectors are compared with prompts, None for an encoder without text; it follows from the
            weights, so it is not part of the fingerprint either.
        classes: what its own classifier answers, None where no output holds that; likewise not part of the fingerprint.
        licence: what the weights' licence binds a user to, in a line; blank where none binds. Not in the fingerprint.
        grids: of outputs `(H, W, D)`, where their cells lie on the picture; it follows from the preprocessing.
    """

    name: str = field(kw_only=False)  # first in users' own encoders
    revision: str
    preprocessing: str
    outputs: Mapping[str, tuple[int, ...]]
    weights: str = ""
    weights_source: str = ""
    text: TextRule | None = None
    classes: ClassRule | None = None
    licence: str = ""
    grids: Mapping[str, Grid] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when anything changes that changes the vectors."""
        beside = ("weights_source", "text", "classes", "licence", "grids")
        return json_digest({key: value for key, value in self.to_json().items() if key not in beside})

    @property
    def untrained(self) -> bool:
        """Whether its weights, by what their source says, are not a trained model's: figures from them mean nothing."""
        return any(word in self.weights_source for word in _UNTRAINED)

    @property
    def stand_in(self) -> str:
        """A sentence where its weights stand in for others; empty for weights that are what they are named after."""
        if self.untrained:
            return f"{self.name} has stand-in weights ({self.weights_source}): figures from its vectors mean nothing"
        if _DEMONSTRATION in self.weights_source:
            return DEMONSTRATES.format(self.name)
        return ""

    @property
    def probe_output(self) -> str:
        """The output that probes learn from unless another is named: `general` where there is one, else the first.

        cxr-foundation has tokens for prompts and tokens for general use; its publishers train classifiers on both.
        """
        return "general" if "general" in self.outputs else next(iter(self.outputs))

    @property
    def search_output(self) -> str:
        """The output that an index takes unless another is named: what words are compared with, else the first.

        Words' output is passed over where it has several vectors an image and is not the first: they would be means.
        """
        first = next(iter(self.outputs))
        words = self.text.output if self.text is not None else first  # which a store need not hold
        return words if len(self.outputs.get(words, ())) == 1 else first

    @property
    def model(self) -> tuple[str, str, str]:
        """Name, revision and weights: encoders that agree in these embed prompts alike, whatever their pixels are."""
        return self.name, self.revision, self.weights

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values. Outputs are a list of pairs, so that their order is part of them."""
        value: dict[str, Any] = {
            "name": self.name,
            "revision": self.revision,
            "preprocessing": self.preprocessing,
            "outputs": [[name, list(shape)] for name, shape in self.outputs.items()],
            "weights": self.weights,
            "weights_source": self.weights_source,
        }
        if self.text is not None:
            value["text"] = self.text.to_json()
        if self.classes is not None:
            value["classes"] = {k: part if k == "output" else list(part) for k, part in vars(self.classes).items()}
        value |= {"licence": self.licence} if self.licence else {}
        if self.grids:
            value["grids"] = {output: grid.to_json() for output, grid in self.grids.items()}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EncoderSpec:
        """The inverse of `to_json`."""
        read = {**value, "outputs": {name: tuple(shape) for name, shape in value["outputs"]}}
        read |= {"text": TextRule(**value["text"])} if "text" in value else {}
        if own := value.get("classes"):
            read["classes"] = ClassRule(own["output"], tuple(own["names"]), tuple(own["operating_points"]))
        read["grids"] = {output: Grid.from_json(grid) for output, grid in value.get("grids", {}).items()}
        return note_stand_in(cls(**read))


def note_stand_in(spec: EncoderSpec) -> EncoderSpec:
    """Notes a spec whose weights are a stand-in, so that the verb that it is read for says so; returns it."""
    read = _STAND_INS_READ.get()
    if read is not None and spec.stand_in:
        read[spec.stand_in] = None
    return note_licence(spec)


def note_licence(spec: EncoderSpec) -> EncoderSpec:
    """Notes a spec whose licence binds, so that the verb that it is read or made for says so; returns it."""
    read = _LICENCES_READ.get()
    if read is not None and spec.licence:
        read[f"{spec.name}: {spec.licence}"] = None
    return spec


@contextmanager
def collected_stand_ins() -> Iterator[None]:
    """Inside, `stand_ins_read` and `licences_read` know of every spec that was read; outside, nothing is kept."""
    tokens = _STAND_INS_READ.set({}), _LICENCES_READ.set({})
    try:
        yield
    finally:
        _STAND_INS_READ.reset(tokens[0])
        _LICENCES_READ.reset(tokens[1])


def stand_ins_read() -> list[str]:
    """A sentence for each stand-in that was read so far."""
    return list(_STAND_INS_READ.get() or ())


def licences_read() -> list[str]:
    """A sentence for each encoder whose licence binds and whose spec was read so far."""
    return list(_LICENCES_READ.get() or ())


class Encoder(Protocol):
    """Pixels to vectors. `preprocess` needs no weights and no framework, so decoding workers can run it.

    What else an encoder may have is described where it is called, in `cxr_embed.encoders.checked`: `notes`,
    `maxima`, `projections`, `means`, `spaces`, `input_form`, `unknown_words`, `word_ids`, `close`.
    """

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        ...

    @property
    def engine(self) -> str:
        """What it runs on, for the record: `openvino 2026.4 bf16 cpu`."""
        ...

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """One image to one model input: always of the same shape and dtype, or an encoded file as 1-D uint8."""
        ...

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Model inputs to `{output: (B, *shape) float32}`.

        `batch` is `(B, ...)`, or a sequence of B inputs where `preprocess` gives encoded files.
        """
        ...


class TextEncoder(Encoder, Protocol):
    """An encoder whose prompts lie in one space with its images; `spec.text` says how they are compared."""

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32; with `cut`, the beginning of a prompt that is longer than the model reads.

        Raises:
            EncoderError: for an empty prompt, or, unless it may be cut, one that is longer than the model reads.
        """
        ...


@dataclass(frozen=True)
class Embeddings:
    """Vectors and the ids that they belong to: `vectors[i]` is the vector of `ids[i]`.

    Attributes:
        ids: `(N,)` strings.
        vectors: `(N, D)` or `(N, T, D)`, float16 or float32 as the store holds them.
        spec: the encoder that made them.
    """

    ids: np.ndarray
    vectors: np.ndarray
    spec: EncoderSpec

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Labels:
    """Findings by image: `values[i, c]` says whether `ids[i]` shows `names[c]`.

    Attributes:
        ids: `(N,)` strings.
        names: the `C` findings.
        values: `(N, C)` float32 in {0, 1, NaN}; NaN = unknown.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Neighbors:
    """The nearest cases of each query, nearest first.

    Attributes:
        query_ids: `(Q,)` strings.
        ids: `(Q, k)` strings; blank where fewer than k cases were left to choose from.
        similarity: `(Q, k)` float32, descending; NaN where `ids` is blank.
    """

    query_ids: np.ndarray
    ids: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.query_ids)


def in_means(names: Sequence[str], count_no_finding: bool = False) -> list[bool]:
    """Whether each finding has a part in means over findings.

    `No Finding`, however it is spelled, says that the others are absent: counted as one more finding, it would weigh
    what the others weigh already. It has no part beside others unless that is chosen.
    """
    plain = ["".join(filter(str.isalpha, name)).casefold() in ("nofinding", "nofindings") for name in names]
    return [count_no_finding or all(plain) or not left for left in plain]


def left_out_of_means(names: Sequence[str], count_no_finding: bool = False) -> list[str]:
    """A sentence where `in_means` leaves one of these out."""
    left = [name for name, counted in zip(names, in_means(names, count_no_finding), strict=True) if not counted]
    return [f"'{name}' says that findings are absent: no part in the mean (`count_no_finding`)" for name in left]


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its words: `1 image is`, `2 images are`; an `s` makes the plural where none is given."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def spellings(text: str) -> set[str]:
    """A text in the forms in which Unicode lets its letters be written: some systems take accents apart."""
    return {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)}
