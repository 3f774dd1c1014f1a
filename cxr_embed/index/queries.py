"""What a search starts from: files, cases, words, several of them, and what it should not look like."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr_embed.encoders import CheckedEncoder, encoder_card, load_encoder, load_text_encoder
from cxr_embed.encoders.registry import is_own
from cxr_embed.errors import CaseIndexError, EncoderError, ImageError, UnknownWordsWarning
from cxr_embed.images import (
    crop_image,
    is_cropped,
    looks_like_chest,
    preparation_of,
    prepare_image,
    prepared_like,
    read_image,
)
from cxr_embed.index.faiss.vectors import pooled, unit
from cxr_embed.index.query import NO_RULES, Query, Rules, unlike_note
from cxr_embed.index.searchable import Searchable
from cxr_embed.prompts import check_filled
from cxr_embed.regions import Box
from cxr_embed.store.prompts import capitals_note, outdated, unlearned_words
from cxr_embed.types import CxrImage, EncoderSpec


@dataclass(frozen=True)
class Examples:
    """What a user points at, of one sign.

    Attributes:
        files: radiographs in any format of the reader.
        ids: cases of the index.
        texts: words.
        box: which part of the one radiograph is meant; None for all of it.
        images: radiographs that are decoded already, by their names.
    """

    files: Sequence[Path] = field(default_factory=tuple)
    ids: Sequence[str] = field(default_factory=tuple)
    texts: Sequence[str] = field(default_factory=tuple)
    box: Box | None = None
    images: Mapping[str, CxrImage] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files) + len(self.images) + len(self.ids) + len(self.texts)

    @property
    def names(self) -> list[str]:
        """What an answer calls each."""
        files = [*map(str, self.files), *self.images]
        return [*(f"{file} [{self.box}]" if self.box is not None else file for file in files), *self.ids, *self.texts]

    def radiographs(self) -> list[tuple[str, CxrImage]]:
        """Each with its name.

        Raises:
            ImageError: for a file that is not a radiograph.
        """
        return [*((str(file), _read(file)) for file in self.files), *self.images.items()]


@dataclass
class QueryEncoders:
    """The encoders of queries: loaded when they are first needed, then kept; once where one model does both.

    Attributes:
        weights: of the encoder; searched for as `load_encoder` does by default.
        device: for the encoder.
    """

    weights: str | os.PathLike[str] | None = None
    device: str = "auto"
    _kept: dict[tuple[str, str], CheckedEncoder] = field(default_factory=dict)

    def of_images(self, spec: EncoderSpec) -> CheckedEncoder:
        """The encoder of radiographs for vectors of this spec. Raises as `matching_encoder` does."""
        if (kept := self._kept.get(("images", spec.fingerprint))) is None:
            kept = self._kept.get(("texts", spec.fingerprint))
            if kept is None or kept.spec.fingerprint != spec.fingerprint:
                kept = matching_encoder(spec, self.weights, self.device)
            self._kept["images", spec.fingerprint] = kept
        return kept

    def of_texts(self, spec: EncoderSpec) -> CheckedEncoder:
        """The encoder of words for vectors of this spec. Raises as `load_text_encoder` does."""
        if (kept := self._kept.get(("texts", spec.fingerprint))) is None:
            kept = self._kept.get(("images", spec.fingerprint))
            if kept is None or kept.spec.text is None or is_own(spec.name):
                kept = load_text_encoder(spec, weights=self.weights, device=self.device)
            self._kept["texts", spec.fingerprint] = kept
        return kept


@dataclass(frozen=True)
class QueryBuilder:
    """Makes queries for one index.

    Attributes:
        index: that is searched.
        encoders: of files and words.
    """

    index: Searchable
    encoders: QueryEncoders = field(default_factory=QueryEncoders)

    def query(
        self,
        like: Examples,
        unlike: Examples = Examples(),
        patient: str | None = None,
        rules: Rules = NO_RULES,
    ) -> Query:
        """One query of all examples: the mean direction of the likes, minus that of the unlikes.

        What is wrong without an encoder is an error before one is loaded.

        Args:
            like, unlike: at least one like.
            patient: whose the files are, or the cases of whom nobody knows, where it matters.
            rules: that the search will apply.

        Raises:
            CaseIndexError: for no like, examples that cancel each other, several examples over tokens, words where
                the encoder has none, ids that are not in the index, rules that need a patient who is not known.
            ImageError: for a file that is not a radiograph.
            EncoderError: where the encoder is needed and cannot be loaded, or another one is found.
        """
        if not len(like):
            raise CaseIndexError("a search needs `image`, `image_id` or `text`")
        if like.box is not None and len(like.files) + len(like.images) != 1:
            raise CaseIndexError("`box` is a part of one `image`: name one")
        if self.index.pool == "tokens" and len(like) + len(unlike) > 1:
            raise CaseIndexError(
                "an index of tokens takes one example a search; build one with `pool='mean'` to combine several"
            )
        cases = {image_id: self.index.query_of(image_id) for image_id in (*like.ids, *unlike.ids)}
        wanted = like.radiographs()
        images = [*wanted, *unlike.radiographs()]
        parts_of = [_part(image, like.box if place == 0 else None) for place, (_, image) in enumerate(images)]
        known = [self._known(image) for _, image in images]
        name = " + ".join(like.names) + "".join(f" - {other}" for other in unlike.names)
        patients = self._patients(known[: len(wanted)], [cases[image_id] for image_id in like.ids], patient)
        rules.check([Query(np.empty(0), name, patients)])
        self._check_texts([*like.texts, *unlike.texts])
        files = self._of_images(images, parts_of, known)
        texts = self.of_texts([*like.texts, *unlike.texts])
        parts = [*files[: len(wanted)], *(cases[i] for i in like.ids), *texts[: len(like.texts)]]
        others = [*files[len(wanted) :], *(cases[i] for i in unlike.ids), *texts[len(like.texts) :]]
        own = tuple(dict.fromkeys(image_id for query in (*cases.values(), *files) for image_id in query.images))
        notes = tuple(dict.fromkeys(note for query in (*parts, *others) for note in query.notes))
        if len(parts) == 1 and not others:
            return Query(parts[0].vector, name, patients, own, notes)
        vector = unit(np.mean([unit(query.vector) for query in parts], axis=0))
        if others:
            away = unit(np.mean([unit(query.vector) for query in others], axis=0))
            vector = vector - away
        if not np.linalg.norm(vector) > 1e-6:
            raise CaseIndexError("the examples cancel each other: no direction is left to search in")
        return Query(vector, name, patients, own, notes)

    def _patients(
        self, files: Sequence[Sequence[Query]], cases: Sequence[Query], patient: str | None
    ) -> tuple[str, ...]:
        """Whose the query is; none where one of its pictures may be anybody's. Words alone belong to nobody."""
        stated = (patient,) if patient else ()
        pictures = [*files, *([case] for case in cases)]
        if not pictures:
            return stated
        owners = [tuple(owner for case in same for owner in case.patients) for same in pictures]
        if stated and all(owners) and stated[0] not in owners[0]:
            name = pictures[0][0].name
            raise CaseIndexError(f"`patient` {patient}: the index has {name} as {owners[0][0]}'s; leave `patient` out")
        owners = [each or stated for each in owners]
        return tuple(dict.fromkeys(owner for each in owners for owner in each)) if all(owners) else ()

    def _check_texts(self, texts: Sequence[str]) -> None:
        """Refuses words that cannot be embedded for this index."""
        if not texts:
            return
        spec = self.index.spec
        if spec.text is None or spec.text.output != self.index.output:
            what = f"the output {self.index.output} of {spec.name}"
            hint = (
                f"index `output` {spec.text.output}" if spec.text else "`cxr-embed encoders` says which embed prompts"
            )
            raise CaseIndexError(f"`text`: words cannot be compared with {what}; {hint}")
        if any(not text.strip() for text in texts):
            raise CaseIndexError("`text`: the words are blank")
        for text in texts:
            try:
                check_filled(text)
            except ValueError as error:
                raise CaseIndexError(f"`text`: {error}") from None

    def _known(self, image: CxrImage) -> list[Query]:
        """The cases that were embedded from this very file."""
        return [self.index.query_of(each) for each in self.index.ids_of_content(bytes.fromhex(image.content_id))]

    def _of_images(
        self,
        images: Sequence[tuple[str, CxrImage]],
        parts: Sequence[CxrImage],
        known: Sequence[Sequence[Query]],
    ) -> list[Query]:
        """Radiographs, or parts of them, as queries; one that is indexed is its case, and no answer to itself."""
        if not images:
            return []
        encoder = self.encoders.of_images(self.index.spec)
        prepare = preparation_of(self.index.spec)
        queries = []
        for (name, image), part, cases in zip(images, parts, known, strict=True):
            given = encoder.preprocess(part)
            batch = [given] if given.ndim == 1 and given.dtype == np.uint8 else given[None]
            vectors = encoder.embed(batch)[self.index.output]
            if self.index.pool == "mean":
                vectors = pooled(vectors, vectors.shape[1:])
            elif self.index.pool == "tokens":
                vectors = vectors.reshape(len(vectors), -1, vectors.shape[-1])
            seen = prepare_image(image, prepare)
            notes = [] if looks_like_chest(seen.pixels, seen.max_value) else [unlike_note(name)]
            if "lateral" in image.notes:
                notes.append(f"{name} is a lateral view, by its header")
            if is_cropped(self.index.spec) != (part is not image):
                notes.append(_other_kind(name, part is not image))
            vector = np.asarray(vectors[0], np.float32)
            own = tuple(case.name for case in cases)
            owners = tuple(dict.fromkeys(owner for case in cases for owner in case.patients))
            if own:
                notes.append(f"{name} is indexed, as {', '.join(own)}: no answer to itself")
            queries.append(Query(vector, name, owners, own, tuple(notes)))
        return queries

    def of_texts(self, texts: Sequence[str]) -> list[Query]:
        """Words as queries; those whose vectors came along with the index need no model.

        Raises:
            CaseIndexError: where words and the indexed output lie in no common space.
            EncoderError: where the text model cannot be loaded, or is another one.
        """
        if not texts:
            return []
        self._check_texts(texts)
        saved = self.index.prompts
        known = dict(zip(saved.prompts, saved.vectors, strict=True))
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        sources = dict(zip(saved.prompts, saved.sources, strict=True))
        guessed = {word: None for text in texts for word in unlearned_words(sources.get(text, ""))}
        notes: tuple[str, ...] = ()
        if guessed:
            named = ", ".join(map(repr, guessed))
            notes = (f"{self.index.spec.name} never learned {named}: it guesses by spelling, so don't rely on it",)
        if not missing:
            notes += capitals_note(saved, self.index.spec, texts)
        else:
            encoder = self.encoders.of_texts(self.index.spec)
            again = set(outdated(saved, self.index.spec, encoder.spec))
            missing += [text for text in dict.fromkeys(texts) if text in again]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", UnknownWordsWarning)
                known.update(zip(missing, encoder.embed_text(missing), strict=True))
            notes += tuple(str(warning.message) for warning in caught)
        return [Query(np.asarray(known[text], np.float32), text, notes=notes) for text in texts]


def _part(image: CxrImage, box: Box | None) -> CxrImage:
    """What is meant of a radiograph.

    Raises:
        CaseIndexError: for a box that is not inside it.
    """
    try:
        return image if box is None else crop_image(image, box)
    except ImageError as error:
        raise CaseIndexError(f"`box`: {error}") from None


def _other_kind(file: str, part: bool) -> str:
    """What is said where a part is compared with whole pictures, or the other way round."""
    if part:
        return f"a part of {file} is compared with whole pictures, as this index has them"
    return f"{file} is compared as a whole with parts of pictures, as this index has them; `box` names a part"


def _read(file: Path) -> CxrImage:
    try:
        return read_image(file)
    except ImageError as error:
        raise ImageError(error.kind, f"{file}: no radiograph to search for: {error}") from None


def matching_encoder(spec: EncoderSpec, weights: str | os.PathLike[str] | None, device: str) -> CheckedEncoder:
    """The encoder that made vectors of this spec.

    Raises:
        EncoderError: where it cannot be loaded, or what is here is another one; both are named.
    """
    card = None if is_own(spec.name) else encoder_card(spec.name)
    if card is not None and card.has_weights and not spec.weights:
        raise EncoderError(
            f"these vectors of {spec.name} were imported, so no model here is known to be theirs; search by `image_id`"
        )
    outputs = tuple(spec.outputs) if card is not None and card.has_choice else None
    for pixels in (card.pixels if card is not None else ()) or (None,):
        loaded = load_encoder(
            spec.name, weights=weights, device=device, precision="float32", outputs=outputs, pixels=pixels
        )
        encoder = CheckedEncoder(prepared_like(loaded.encoder, spec))
        if encoder.spec.fingerprint == spec.fingerprint:
            return encoder
    raise EncoderError(
        f"the index is of {spec.name} [{spec.fingerprint[:12]}], the encoder here is {encoder.spec.name} "
        f"[{encoder.spec.fingerprint[:12]}]: other weights, pixels or code; name the right weights with `weights`"
    )
