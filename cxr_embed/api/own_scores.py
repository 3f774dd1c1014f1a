"""A model's own answers: what its classifier said of each image, from a store that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from cxr_embed.api.inputs import StrPath, store_of
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.arguments import checked_arguments
from cxr_embed.cases import chosen_findings, shown_names
from cxr_embed.encoders import encoder_card
from cxr_embed.encoders.registry import is_own
from cxr_embed.errors import EncoderError, StoreError
from cxr_embed.store import Store
from cxr_embed.types import ClassRule, EncoderSpec
from cxr_embed.zeroshot import Scores


@checked_arguments
def scores(
    store: Store | StrPath, *, findings: Sequence[str] | None = None, operating_points: bool = False
) -> ScoreFrame:
    """The scores that the encoder's own classifier gave the images of a store: the baseline without training.

    The store must hold them as one of the encoder's outputs (`outputs` features,scores when it was embedded). No model
    is loaded. A score is the sigmoid of a logit; whether it is a probability of the finding is for `evaluate` to say.

    Args:
        store: an open store, or its folder.
        findings: of the classifier's; all by default. `common`: those that the vocabulary of findings has, under its
            names.
        operating_points: rescale each finding's scores below and above its operating point to 0..0.5 and 0.5..1, as
            TorchXRayVision's models do. The order of the images stays.

    Raises:
        StoreError: for a store that holds no such answers, or no image.
        EncoderError: for an encoder without operating points.
        CasesError: for a finding that the classifier does not know.
    """
    opened = store_of(store)
    rule = _rule(opened)
    if operating_points and not rule.operating_points:
        raise EncoderError(f"{opened.spec.name}: its operating points are not known; leave out `operating_points`")
    chosen = chosen_findings(findings, rule.names, f"{opened.spec.name}'s classifier")
    columns = [rule.names.index(name) for name in chosen]
    logits = opened.read(opened.ids, rule.output).vectors[:, columns].astype(np.float32)
    if not np.isfinite(logits).all():
        bad = opened.ids[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
        raise StoreError(f"{opened.path}: the scores of {bad} are not finite; embed it again")
    values = expit(logits)
    if operating_points:
        values = at_operating_points(values, np.array(rule.operating_points, np.float32)[columns])
    about = {"encoder": opened.spec.name, "fingerprint": opened.spec.fingerprint, "output": rule.output}
    about |= {"operating_points": "0.5"} if operating_points else {}
    about |= {"stand_in": opened.spec.stand_in} if opened.spec.stand_in else {}
    made = Scores(
        ids=opened.ids,
        names=shown_names(findings, chosen),
        values=values,
        kind="sigmoid",
        stand_in=opened.spec.untrained,
    )
    return ScoreFrame(made, about, _notes(opened.spec))


def at_operating_points(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Scores rescaled in two straight parts, so that each finding's operating point becomes 0.5.

    Args:
        values: `(N, C)` in 0..1.
        points: `(C,)`, within 0 and 1.

    Returns:
        `(N, C)` float32.
    """
    below = values / (2 * points)
    above = 1 - (1 - values) / (2 * (1 - points))
    return np.asarray(np.where(values < points, below, above), dtype=np.float32)


def _rule(store: Store) -> ClassRule:
    """What a store's encoder answers.

    Raises:
        StoreError: where the store holds nothing of the kind.
    """
    spec = store.spec
    rule = spec.classes
    if rule is None or rule.output not in spec.outputs:
        known = () if is_own(spec.name) or not _listed(spec.name) else encoder_card(spec.name).outputs
        if "scores" in known:
            raise StoreError(
                f"{store.path}: holds {', '.join(spec.outputs)} of {spec.name}, not its scores; embed into another "
                f"`store` with `outputs` {','.join(dict.fromkeys([*spec.outputs, 'scores']))}"
            )
        raise StoreError(
            f"{store.path}: {spec.name} has no scores of its own; `screen` asks by prompts, a probe learns from labels"
        )
    shape = spec.outputs[rule.output]
    if shape != (len(rule.names),):
        raise StoreError(
            f"{store.path}: {rule.output} has the shape {shape}, its encoder names {len(rule.names)} classes"
        )
    if not len(store):
        raise StoreError(f"{store.path}: holds no image with a vector; embed some first")
    return rule


def _listed(name: str) -> bool:
    try:
        encoder_card(name)
    except EncoderError:  # vectors that were imported under a name of the user's
        return False
    return True


def _notes(spec: EncoderSpec) -> tuple[str, ...]:
    """That images which the classifier learned from are no test; which they were, nobody knows."""
    if spec.untrained or is_own(spec.name) or not _listed(spec.name) or not encoder_card(spec.name).trained_on:
        return ()
    trained_on = encoder_card(spec.name).trained_on
    return (
        f"{spec.name} learned from {trained_on}, which of their images is not known: scores on them are no clean test",
    )
