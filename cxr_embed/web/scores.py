"""Scores of an index's cases by the probe and the prompts that the server was started with: made once a generation."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.cases import find_ids, own_patients
from cxr_embed.errors import StoreError, UnknownWordsWarning
from cxr_embed.evaluation import ScoresError
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import CONTENT
from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.loss import probability
from cxr_embed.probe.persistence import TrainedProbe
from cxr_embed.prompts import PromptError, PromptSet
from cxr_embed.store import Prompts, Store, open_store, read_prompts
from cxr_embed.store.prompts import outdated, prompt_width
from cxr_embed.web.state import Generation, State
from cxr_embed.zeroshot import Cosines, Scorer

By = Literal["probe", "prompts"]
_GENERATIONS = 2  # whose scores are kept: a request may still work with the one before
_UNIT = 1e-3  # how far the mean square of float16 vectors of unit length may be from 1


@dataclass(frozen=True)
class Scored:
    """A finding that every case has a score of.

    Attributes:
        by: what gives the score.
        finding: its name, as the probe or the prompts have it.
    """

    by: By
    finding: str


@dataclass
class Scores:
    """The scores of a site.

    Vectors come from the store where one was named: its numbers are those of `cxr-embed probe predict` and `zeroshot`,
    to the last digit. Without a store they come from the index, where it keeps what is needed: prompts compare by
    directions, and so take an index of their output; a probe takes one of the output that it learned from where that
    has unit length, as the vectors of an index do.

    Attributes:
        state: what is open.
    """

    state: State
    _kept: dict[tuple[str, By], np.ndarray] = field(default_factory=dict)
    _marked: dict[str, np.ndarray] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def check(self, names: dict[str, str]) -> None:
        """Finds what would go wrong with the first page, before there is one.

        Args:
            names: `index`, `store`, `probe` and `prompts` as the user wrote them, for messages.

        Raises:
            CxrEmbedError: for a store or an index that lacks what the scores need, or words that cannot be embedded.
        """
        index, state = self.state.current().index, self.state
        if state.store is not None and len(index) and not (find_ids(index.ids, state.store.ids) >= 0).any():
            raise StoreError(f"{names['store']}: not the store of {names['index']}: it has none of its cases")
        if state.probe is not None and state.store is None and not _takes_index(state.probe, index):
            raise ProbeError(
                f"{names['probe']}: needs the `store`: it learned from the output {state.probe.output} as it is, and "
                f"{names['index']} keeps {index.output} at unit length"
            )
        if state.prompts is not None:
            if state.store is None and not _has_words(index):
                text = index.spec.text
                raise PromptError(
                    f"{names['prompts']}: needs the `store`: prompts are compared with the output "
                    f"{text.output if text is not None else ''}, and {names['index']} keeps {_described(index)}"
                )
            _ = self._scorer

    def offered(self) -> tuple[Scored, ...]:
        """What there are scores of: the probe's findings that were learned, then those of the prompts."""
        probe, prompts = self.state.probe, self.state.prompts
        learned = [probe.findings[number] for number in _learned(probe)] if probe is not None else []
        worded = [finding.name for finding in prompts.findings] if prompts is not None else []
        return (*(Scored("probe", name) for name in learned), *(Scored("prompts", name) for name in worded))

    def of(self, generation: Generation, by: str, finding: str) -> np.ndarray:
        """The scores of a finding.

        Args:
            generation: of the index.
            by: `probe` for probabilities, `prompts` for zero-shot scores.
            finding: one of `offered`.

        Returns:
            `(N,)` float32 in the order of the index's rows, read-only; NaN where the store has no vector of the case,
            or of another picture under its id.

        Raises:
            ScoresError: for what is not offered.
            StoreError, ProbeError: where the store is gone or damaged, or has become another encoder's.
        """
        names: dict[str, list[str]] = {"probe": [], "prompts": []}
        for each in self.offered():
            names[each.by].append(each.finding)
        if finding not in names.get(by, ()):
            known = ", ".join(f"{each.finding} by {each.by}" for each in self.offered()) or "none"
            raise ScoresError(f"no scores of {finding} by {by}; there are {known}")
        values = self._values(generation, "probe" if by == "probe" else "prompts")
        found: np.ndarray = values[names[by].index(finding)]
        return found

    def learned_from(self, generation: Generation) -> np.ndarray:
        """`(N,)` bool: cases of patients that the probe learned from, which are no test of it; read-only."""
        with self._making:
            if generation.name not in self._marked:
                index, probe = generation.index, self.state.probe
                marked = np.zeros(len(index), bool)
                if probe is not None:
                    marked = probe.seen(own_patients(index.ids, index.patient_ids), index.ids)
                self._marked[generation.name] = marked
                _drop_old(self._marked)
            return self._marked[generation.name]

    def _values(self, generation: Generation, by: By) -> np.ndarray:
        """`(F, N)` of all findings."""
        with self._making:
            if (kept := self._kept.get((generation.name, by))) is None:
                kept = np.ascontiguousarray(self._made(generation.index, by).T, np.float32)
                kept.flags.writeable = False
                self._kept[generation.name, by] = kept
                _drop_old(self._kept, 2 * _GENERATIONS)
            return kept

    def _made(self, index: CaseIndex, by: By) -> np.ndarray:
        make = self._of_probe if by == "probe" else self._of_prompts
        return make(index, self._store(index) if self.state.store is not None else None)

    def _store(self, index: CaseIndex) -> Store:
        """The store as it is now: it may have grown since the server started, as the index has."""
        assert self.state.store is not None
        store = open_store(self.state.store.path)
        if store.spec.fingerprint != index.spec.fingerprint:
            raise StoreError(f"{store.path}: has become a store of another encoder than the index's")
        return store

    def _of_probe(self, index: CaseIndex, store: Store | None) -> np.ndarray:
        """`(N, F)` probabilities of the findings that were learned."""
        probe = self.state.probe
        assert probe is not None
        if store is None:
            values = probability(probe.probe.decision_function(index.vectors)).astype(np.float32)
        else:
            rows, held = _held(index, store)
            values = _spread(len(index), rows, probe.predict(store, held) if len(held) else None, len(probe.findings))
        return values[:, _learned(probe)]

    def _of_prompts(self, index: CaseIndex, store: Store | None) -> np.ndarray:
        """`(N, F)` zero-shot scores."""
        scorer, rule = self._scorer, index.spec.text
        assert rule is not None
        if store is None:
            vectors = index.tokens if index.pool == "tokens" else index.vectors
            return scorer.scores(Cosines(scorer.matrix, vectors.shape[1:], vectors.dtype.name)(vectors))
        compare = Cosines(scorer.matrix, store.spec.outputs[rule.output], store.header.dtype)
        every = np.empty((len(store), len(scorer.findings)), np.float32)
        for rows, places, vectors in store.mapped(rule.output):
            every[rows] = scorer.scores(compare(vectors)[places])
        rows, held = _held(index, store)
        return _spread(len(index), rows, every[find_ids(held, store.ids)], len(scorer.findings))

    @cached_property
    def _scorer(self) -> Scorer:
        """What compares with the prompts; their vectors are the store's, else the index's, else they are embedded.

        Raises:
            PromptError, StoreError, EncoderError: see `check`.
        """
        prompts, store, index = self.state.prompts, self.state.store, self.state.current().index
        assert prompts is not None
        assert index.spec.text is not None
        rule = index.spec.text
        # Faults of the prompt set come before a model is loaded for it.
        width = prompt_width(index.spec, index.path)
        Scorer(prompts.findings, dict.fromkeys(prompts.prompts, np.ones(width)), rule, self.state.score)
        saved = read_prompts(store) if store is not None else index.prompts
        return Scorer(prompts.findings, self._vectors(index, saved, prompts), rule, self.state.score)

    def _vectors(self, index: CaseIndex, saved: Prompts, prompts: PromptSet) -> dict[str, np.ndarray]:
        known = dict(zip(saved.prompts, saved.vectors, strict=True))
        missing = [prompt for prompt in prompts.prompts if prompt not in known]
        if missing:
            encoder = self.state.encoders.of_texts(index.spec)
            again = set(outdated(saved, index.spec, encoder.spec))
            missing += [prompt for prompt in prompts.prompts if prompt in again]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnknownWordsWarning)
                known.update(zip(missing, encoder.embed_text(missing), strict=True))
        return known


def _learned(probe: TrainedProbe) -> list[int]:
    """Numbers of the findings that a probe has scores of."""
    return [number for number in range(len(probe.findings)) if number not in probe.probe.undefined_]


def _takes_index(probe: TrainedProbe, index: CaseIndex) -> bool:
    """Whether a probe learned from vectors as the index keeps them: of its output, one an image, of unit length."""
    if index.output != probe.output or len(index.spec.outputs[index.output]) != 1:
        return False
    # A dimension that is constant keeps its scale, which then stands for no spread.
    mean, spread = np.square(probe.probe.mean_), np.square(probe.probe.scale_)
    return bool(abs(float((mean + np.where(spread == 1, 0, spread)).sum()) - 1) < _UNIT)


def _has_words(index: CaseIndex) -> bool:
    """Whether an index keeps what prompts are compared with: single vectors, or all tokens, not their means."""
    return index.spec.text is not None and index.spec.text.output == index.output and index.pool != "mean"


def _described(index: CaseIndex) -> str:
    return f"the means of {index.output}" if index.pool == "mean" else index.output


def _held(index: CaseIndex, store: Store) -> tuple[np.ndarray, np.ndarray]:
    """`(M,)` rows of the index whose picture the store has a vector of, and `(M,)` their ids."""
    places = find_ids(index.ids, store.ids)
    contents = pa.array(store.index.files(), pa.binary(32)).take(pa.array(np.maximum(places, 0)))
    same = pc.equal(index.table[CONTENT].combine_chunks(), contents).fill_null(True)
    rows = np.flatnonzero((places >= 0) & np.asarray(same).astype(bool)) if len(store) else np.empty(0, np.int64)
    return rows, index.ids[rows]


def _spread(count: int, rows: np.ndarray, values: np.ndarray | None, width: int) -> np.ndarray:
    """`(count, width)` float32: values of some rows, NaN elsewhere."""
    result = np.full((count, width), np.nan, np.float32)
    if values is not None:
        result[rows] = values
    return result


def _drop_old(kept: dict[Any, np.ndarray], most: int = _GENERATIONS) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]
