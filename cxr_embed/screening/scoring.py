"""Scores of every image of a store. The image model is never loaded; the text model only for prompts that are new."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cxr_embed.choices import Ensemble, ScoreKind
from cxr_embed.encoders import CheckedEncoder, load_text_encoder
from cxr_embed.errors import EncoderError, StoreError, UnknownWordsWarning
from cxr_embed.io.files import written_aside
from cxr_embed.manifest import DESCRIPTIVE, OPTIONAL, REQUIRED, write_csv
from cxr_embed.prompts import PromptError, PromptSet
from cxr_embed.store import Store, add_prompts, read_prompts
from cxr_embed.store.prompts import (
    CUT,
    capitals_note,
    check_prompts,
    embedded_source,
    outdated,
    prompt_source,
    prompt_width,
    unlearned_words,
)
from cxr_embed.types import LEARNED, STAND_IN, counted
from cxr_embed.zeroshot import Cosines, Scorer, Scores

SUFFIXES = (".csv", ".parquet")
# Images whose single prompts are compared where there are no labels; more would change the third digit of a rank
# correlation, and cost memory.
_SAMPLE = 20_000
_TEXT_BATCH = 32  # prompts between two steps of the progress bar
_ROWS = 65_536  # of the scores' file written at once
_NAMED = 5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Screening:
    """Scores of a store's images, and what a report needs besides.

    Attributes:
        scores: of every image with a vector, in the store's order.
        scorer: what made them.
        kept: `(K,)` positions in `scores` of the images whose cosines are kept.
        cosines: `(K, P)` float32, their cosines with the rows of `scorer.matrix`.
        embedded: prompts that the text model embedded in this run.
        notes: what the user should know of it.
    """

    scores: Scores
    scorer: Scorer
    kept: np.ndarray
    cosines: np.ndarray
    embedded: int
    notes: tuple[str, ...]


def score_store(
    store: Store,
    prompts: PromptSet,
    *,
    score: ScoreKind | None = None,
    ensemble: Ensemble = "scores",
    keep: np.ndarray | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    cut_prompts: bool = False,
    progress: Progress | None = None,
) -> Screening:
    """Scores every image that has a vector.

    Args:
        store: an open store.
        prompts: that images are compared with.
        score, ensemble: as `Scorer` takes them.
        keep: `(N,)` bool, the images whose cosines the report needs; a sample by default.
        weights, device: of the text model, for prompts that the store does not hold yet.
        cut_prompts: read the beginning of a prompt that is longer than the text model reads.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        PromptError: as `Scorer` does.
        StoreError: for a store without text or without vectors, or vectors that are zero or not finite.
        EncoderError: where prompts are missing and no text model can embed them.
    """
    prompt_width(store.spec, store.path)
    rule = store.spec.text
    assert rule is not None
    if not len(store):
        raise StoreError(f"{store.path}: holds no image with a vector; embed some first")
    # Faults of the prompt set come before a model is loaded for it.
    width = store.spec.outputs[rule.output][-1]
    Scorer(prompts.findings, dict.fromkeys(prompts.prompts, np.ones(width)), rule, score, ensemble)
    vectors, embedded, notes = _prompt_vectors(
        store, prompts, progress, weights=weights, device=device, cut=cut_prompts
    )
    scorer = Scorer(prompts.findings, vectors, rule, score, ensemble)
    kept = _sample(len(store)) if keep is None else np.flatnonzero(keep)
    place = np.full(len(store), -1)
    place[kept] = np.arange(len(kept))
    values = np.empty((len(store), len(scorer.findings)), np.float32)
    cosines = np.empty((len(kept), len(scorer.matrix)), np.float32)
    compare = Cosines(scorer.matrix, store.spec.outputs[rule.output], store.header.dtype)
    done = 0
    for rows, places, stored in store.mapped(rule.output):
        found = compare(stored)[places]
        wrong = np.isnan(found).any(axis=1)
        if wrong.any():
            named = ", ".join(store.ids[rows[wrong]][:_NAMED])
            raise StoreError(
                f"{store.path}: {counted(int(wrong.sum()), 'image has', 'images have')} a vector that is "
                f"zero or not finite ({named}); "
                "`cxr-embed store verify` checks the files; embed or import these images again"
            )
        values[rows] = scorer.scores(found)
        wanted = place[rows] >= 0
        cosines[place[rows[wanted]]] = found[wanted]
        done += len(rows)
        if progress is not None:
            progress("scoring", done, len(store))
    names = tuple(finding.name for finding in scorer.findings)
    scores = Scores(ids=store.ids, names=names, values=values, kind=scorer.kind, stand_in=store.spec.untrained)
    return Screening(scores=scores, scorer=scorer, kept=kept, cosines=cosines, embedded=embedded, notes=notes)


def _sample(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))


def _prompt_vectors(
    store: Store,
    prompts: PromptSet,
    progress: Progress | None,
    *,
    weights: str | os.PathLike[str] | None,
    device: str,
    cut: bool,
) -> tuple[dict[str, np.ndarray], int, tuple[str, ...]]:
    """Vectors of all prompts, how many were embedded for it, and notes."""
    known = read_prompts(store)
    vectors = dict(zip(known.prompts, known.vectors, strict=True))
    sources = dict(zip(known.prompts, known.sources, strict=True))
    missing = [prompt for prompt in prompts.prompts if prompt not in vectors]
    if not missing:
        return vectors, 0, (*_word_notes(store, prompts, sources), *capitals_note(known, store.spec, prompts.prompts))
    try:
        encoder = load_text_encoder(store.spec, weights=weights, device=device)
        again = set(outdated(known, store.spec, encoder.spec))
        missing += [prompt for prompt in prompts.prompts if prompt in again]
        parts = []
        for start in range(0, len(missing), _TEXT_BATCH):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnknownWordsWarning)  # a note says it
                parts.append(encoder.embed_text(missing[start : start + _TEXT_BATCH], cut=cut))
            if progress is not None:
                progress("embedding prompts", min(start + _TEXT_BATCH, len(missing)), len(missing))
    except EncoderError as error:
        shown = ", ".join(repr(p if len(p) <= 60 else p[:57] + "...") for p in missing[:2]) + (
            ", ..." if len(missing) > 2 else ""
        )
        raise EncoderError(
            f"{store.path} holds no vector of {len(missing)} of {len(prompts.prompts)} prompts ({shown}), and the text "
            f"model cannot embed them:\n  {error}"
        ) from None
    added = check_prompts(store.spec, missing, np.concatenate(parts), store.path)
    unknown = [encoder.unknown_words(prompt) for prompt in missing]
    came = embedded_source(encoder.spec, encoder.engine)
    shortened = _cut(encoder, missing) if cut else set()
    ways = [came + (CUT if prompt in shortened else "") for prompt in missing]
    new = [prompt_source(way, words) for way, words in zip(ways, unknown, strict=True)]
    notes = _word_notes(store, prompts, {**sources, **dict(zip(missing, new, strict=True))})
    notes += _anew(store, [prompt for prompt in missing if prompt in again or prompt in known.left_out])
    try:
        add_prompts(store.path, missing, added, new)
    except StoreError as error:
        # The scores do not depend on it; the next run embeds the prompts once more.
        notes += (f"the prompts' vectors are not kept: {error}",)
    return {**vectors, **dict(zip(missing, added, strict=True))}, len(missing), notes


def _anew(store: Store, prompts: Sequence[str]) -> tuple[str, ...]:
    if not prompts:
        return ()
    return (
        f"{counted(len(prompts), 'prompt')}, the first {prompts[0][:60]!r}, embedded anew: an earlier release had kept "
        f"capitals, and {store.spec.name} reads lower case",
    )


def _cut(encoder: CheckedEncoder, prompts: Sequence[str]) -> set[str]:
    """The prompts that the encoder does not read whole; each of them it embeds if it may cut."""
    found = set()
    for prompt in prompts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnknownWordsWarning)
                encoder.embed_text([prompt])
        except EncoderError:
            found.add(prompt)
    return found


def _word_notes(store: Store, prompts: PromptSet, sources: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on prompts that were cut, or have words that the encoder never learned.

    Both stand in a prompt's source, so each run says it.
    """
    notes = []
    shortened = [prompt for prompt in prompts.prompts if CUT in sources[prompt]]
    if shortened:
        notes.append(
            f"only the beginning of {len(shortened)} of {len(prompts.prompts)} prompts was read, the first "
            f"{shortened[0][:60]!r}: they are longer than {store.spec.name} reads"
        )
    guessed = {prompt: unlearned_words(sources[prompt]) for prompt in prompts.prompts}
    guessed = {prompt: words for prompt, words in guessed.items() if words}
    if not guessed:
        return tuple(notes)
    words = list(dict.fromkeys(word for prompt in guessed for word in guessed[prompt]))
    named = ", ".join(words[:_NAMED]) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")
    return (
        *notes,
        f"{len(guessed)} of {len(prompts.prompts)} prompts, the first {next(iter(guessed))!r}, have words that "
        f"{store.spec.name} never learned ({named}): it guesses by spelling, so don't rely on them",
    )


def check_names(prompts: PromptSet) -> None:
    """Refuses findings whose scores would be read as something else.

    Raises:
        PromptError: naming them.
    """
    columns = {*REQUIRED, *OPTIONAL, *DESCRIPTIVE, LEARNED, STAND_IN}
    wrong = [finding.name for finding in prompts.findings if finding.name.strip().casefold() in columns]
    if wrong:
        raise PromptError(
            f"{prompts.name}: a finding named {wrong[0]}, which is a column of score files and manifests that is not a "
            "finding; give it another name"
        )


def check_scores_target(path: Path) -> None:
    """Refuses a file that `write_scores` could not write.

    Raises:
        StoreError: for another suffix, a folder, or a place where nothing can be written.
    """
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        raise StoreError(f"{path}: scores are a file whose name ends in {' or '.join(SUFFIXES)}; give another `out`")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "Permission denied" if folder.is_dir() else f"{folder} is not a folder"
        raise StoreError(f"{path}: cannot be written ({reason}); give another `out`")


def write_scores(path: Path, scores: Scores, about: dict[str, str]) -> None:
    """Writes `image_id` and one column a finding as CSV or Parquet (by its suffix), by atomic rename.

    Scores of a probe have a column `learned_from` of 1 and 0 too, and those of stand-in weights a column `stand_in`: a
    column goes where the rows go, as no second file would.

    Args:
        path: the file.
        scores: what to write, as float32.
        about: how the scores came about; Parquet keeps it in the file's metadata.

    Raises:
        StoreError: where it cannot be written.
    """
    check_scores_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as partial:
            if path.suffix.lower() == ".parquet":
                _write_parquet(partial, scores, {**about, "score": scores.kind})
            else:
                _write_csv(partial, scores)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); give another `out`") from None


def _write_parquet(path: Path, scores: Scores, about: dict[str, str]) -> None:
    fields = [pa.field("image_id", pa.string()), *_mark_fields(scores)]
    fields += [pa.field(name, pa.float32()) for name in scores.names]
    schema = pa.schema(fields, metadata=about)
    with pa.parquet.ParquetWriter(str(path), schema, write_page_checksum=True) as writer:
        for ids, columns in _parts(scores):
            writer.write_table(pa.Table.from_arrays([pa.array(ids, pa.string()), *columns], schema=schema))


def _write_csv(path: Path, scores: Scores) -> None:
    names = ["image_id", *(field.name for field in _mark_fields(scores)), *scores.names]
    rows = (
        row
        for ids, columns in _parts(scores)
        # Arrow writes the fewest digits that give the same float32.
        for row in zip(ids, *(column.cast(pa.string()).to_pylist() for column in columns), strict=True)
    )
    write_csv(path, names, rows, careful=any("\r" in image_id for image_id in scores.ids.tolist()))


def _parts(scores: Scores) -> Iterator[tuple[list[str], list[pa.Array]]]:
    for start in range(0, len(scores.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        columns = [pa.array(column) for column in np.ascontiguousarray(scores.values[rows].T)]
        marks = [scores.learned_from[rows]] if scores.learned_from is not None else []
        marks += [np.ones(len(scores.ids[rows]), bool)] if scores.stand_in else []
        columns = [*(pa.array(mark.astype(np.int8)) for mark in marks), *columns]
        yield scores.ids[rows].tolist(), columns


def _mark_fields(scores: Scores) -> list[pa.Field]:
    names = [LEARNED] if scores.learned_from is not None else []
    return [pa.field(name, pa.int8()) for name in [*names, *([STAND_IN] if scores.stand_in else [])]]
