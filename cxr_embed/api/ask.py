"""Single questions in words: the images that show it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cxr_embed.api.inputs import Progress, StrPath, Table, labels_of, progress_or_bar, store_of
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.api.search import lateral_notes
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Blank, Ensemble, ScoreKind, Uncertain
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation import ScoresError
from cxr_embed.index.answers import whole_ages
from cxr_embed.manifest import Manifest
from cxr_embed.present.numbers import PLAIN
from cxr_embed.prompts.questions import prompts_of_questions
from cxr_embed.screening import score_store
from cxr_embed.screening.question import Answer, answer
from cxr_embed.screening.scoring import check_names
from cxr_embed.store import Store
from cxr_embed.types import counted


@dataclass(frozen=True, repr=False)
class Answers(Tabular):
    """The images that score highest for each question, highest first.

    Attributes:
        answers: one a question, in their order.
        scores: of all images, for `evaluate`.
        notes: what the user should know of them, in sentences.
    """

    answers: tuple[Answer, ...]
    scores: ScoreFrame
    notes: tuple[str, ...]

    @property
    def aurocs(self) -> list[str]:
        """A line for each question that has labels: how far its ranking can be trusted."""
        lines = []
        for each in self.answers:
            if each.auroc is not None:
                over = f"over {counted(each.images, 'image')}, {each.positives:,} of them positive ({each.label})"
                why = f"; {each.auroc.reason}" if each.auroc.reason else ""
                lines.append(f"{each.question.name}: AUROC {PLAIN.estimate(each.auroc)} {over}{why}")
        return lines

    def __repr__(self) -> str:
        lines = []
        for each in self.answers:
            lines.append(f"{each.question.name}: '{each.question.positive[0]}' against '{each.question.negative[0]}'")
            lines += [f"  {case['image_id']}  {case['score']:.4f}" for case in each.cases]
        return self._as_text([*lines, *self.aurocs])

    def to_arrow(self) -> pa.Table:
        """A row an image of a question: `question`, `image_id`, `score`, and what is known of the image."""
        rows: list[dict[str, Any]] = [
            {"question": each.question.name, **whole_ages(case)} for each in self.answers for case in each.cases
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        known = [name for name in names if any(row.get(name) is not None for row in rows)]
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in known})

    def _remarks(self) -> Sequence[str]:
        return tuple(dict.fromkeys([*self.scores._remarks(), *self.notes]))


@checked_arguments
def ask(
    store: Store | StrPath,
    questions: Sequence[str],
    *,
    against: Sequence[str] = (),
    k: int = 10,
    manifest: Manifest | StrPath | Table | None = None,
    labels: Manifest | StrPath | Table | None = None,
    extra: Sequence[str] = (),
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    score: ScoreKind | None = None,
    ensemble: Ensemble = "scores",
    weights: StrPath | None = None,
    device: str = "auto",
    cut_prompts: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Answers:
    """Asks a store questions in words, and gives the images that score highest; with labels, the ranking's AUROC.

    Args:
        store: an open store, or its folder.
        questions: words such as `pneumothorax`, one or a list; `NAME=WORDS` where the labels name it otherwise.
        against: what each question is compared with; its denial (`no pneumothorax`) by default.
        k: images wanted of each question.
        manifest: what is known of the images; its findings are the labels, unless `labels` has others.
        labels: a table of `image_id` and findings.
        extra: columns of both that are not findings.
        split, uncertain, blank: which labels count, and what -1 and a blank count as.
        score: `margin` by default: of one pair all scores rank alike, but a softmax's highest round to 1.
        ensemble, weights, device, cut_prompts: as `screen` takes them.
        bootstraps, seed: of the AUROC's interval.
        progress: called with a word for the step, what is done and how much there is; a bar in notebooks by default.

    Raises:
        PromptError, ManifestError, ScoresError, StoreError, EncoderError: for what cannot be used, before anything is
            scored.
    """
    if k < 1:
        raise CxrEmbedError(f"`k` is the number of images, at least 1, not {k}")
    prompts = prompts_of_questions(questions, against)
    check_names(prompts)
    known = labels_of(manifest, extra) if manifest is not None else None
    labelled = labels_of(labels, extra) if labels is not None else known if known and known.findings else None
    if labelled is None and split is not None:
        raise ScoresError("`split` is for the AUROC on labels; give `labels`, or a `manifest` with findings, too")
    opened = store_of(store)
    screening = score_store(
        opened,
        prompts,
        score=score or "margin",
        ensemble=ensemble,
        weights=weights,
        device=device,
        cut_prompts=cut_prompts,
        progress=progress_or_bar(progress),
    )
    answers, notes = answer(
        opened,
        screening,
        k,
        known=known or labelled,
        labels=labelled,
        split=split,
        uncertain=uncertain,
        blank=blank,
        bootstraps=bootstraps,
        seed=seed,
    )
    notes += lateral_notes(list({case["image_id"]: case for each in answers for case in each.cases}.values()))
    about = {"encoder": opened.spec.name, "fingerprint": opened.spec.fingerprint, "score": screening.scores.kind}
    about |= {"stand_in": opened.spec.stand_in} if opened.spec.stand_in else {}
    about |= {"prompts": prompts.name, "prompts_digest": prompts.digest}
    scores = ScoreFrame(screening.scores, about, screening.notes, embedded=screening.embedded)
    return Answers(tuple(answers), scores, tuple(dict.fromkeys(notes)))
