"""What made a query and its neighbours alike: maps on both pictures, for a montage."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.loading import encoder_of
from cxr_embed.explanation.measured import NOT_MEASURED
from cxr_embed.explanation.overlay import colour_bar
from cxr_embed.explanation.small import SmallMap, SmallMaps
from cxr_embed.explanation.targets import of_vectors
from cxr_embed.images import crop_image
from cxr_embed.types import CxrImage

if TYPE_CHECKING:
    from cxr_embed.api.search import SimilarCases
    from cxr_embed.encoders import CheckedEncoder
    from cxr_embed.reporting.montage import Likeness
    from cxr_embed.reporting.panels import Places

SIDE = 420  # pixels of a picture's longer side in a montage
Progress = Callable[[str, int, int], object]


def check_alike(answer: SimilarCases) -> None:
    """Refuses a search whose likeness has no maps.

    Raises:
        CaseIndexError: for an index of tokens.
    """
    if answer.index.pool == "tokens":
        raise CaseIndexError(
            "`explain`: this index compares token with token, and maps are of one vector a case; build one with "
            "`pool='mean'`"
        )


def likeness_of(
    answer: SimilarCases,
    places: Places,
    *,
    weights: str | os.PathLike[str] | None,
    device: str,
    announce: Callable[[str], object] | None,
    progress: Progress | None,
) -> Likeness:
    """Maps of each neighbour with the query as what it is like, and of the query with each neighbour.

    The query has maps where it is one picture or part of one; of several, of words and of what to stay away from there
    are maps of the neighbours alone. The directions are the index's own vectors, by which the search ranked.

    Args:
        answer: of a search.
        places: where the radiographs are.
        weights, device: of the encoder.
        announce: called with a line on what occlusion costs, before it begins.
        progress: called with a word, the images that are done and how many there are.

    Raises:
        CaseIndexError: for an index of tokens.
        EncoderError, MapError: where the encoder cannot be loaded, or is another one.
    """
    from cxr_embed.reporting.montage import Likeness
    from cxr_embed.reporting.panels import case_image

    check_alike(answer)
    index = answer.index
    encoder = encoder_of(index.spec, index.output, weights=weights, device=device, whose="the index")
    digests = index.cases(answer.rows, ["content"])
    cases = [{**case, **digest} for case, digest in zip(answer.cases, digests, strict=True)]
    query = _query_image(answer, places)
    total = len(cases) + (query is not None)
    try:
        beside: Sequence[SmallMap] | None = None
        if query is not None and cases:
            beside = _of_query(encoder, answer, query, announce)
            announce = None
        towards = of_vectors(encoder, index.output, answer.query.vector[None], ("the query",))
        maps = SmallMaps(encoder, towards, side=SIDE, announce=announce, images=len(cases))
        found: list[SmallMap | str] = []
        for number, case in enumerate(cases, start=total - len(cases)):
            if progress is not None:
                progress("explaining", number, total)
            image = case_image(case, places)
            found.append(maps.of(image, _answer(encoder, image), [0])[0] if isinstance(image, CxrImage) else image)
    finally:
        encoder.close()
    return Likeness(
        query=[_panel(each) for each in beside] if beside is not None else None,
        cases=[_panel(each) for each in found],
        bar=colour_bar(160, 9),
        notes=_notes(answer, encoder.spec.name, maps.explainer.method.words, beside is not None),
    )


def _of_query(
    encoder: CheckedEncoder, answer: SimilarCases, image: CxrImage, announce: Callable[[str], object] | None
) -> list[SmallMap]:
    """The query's maps, one a neighbour: all of them at once."""
    vectors = np.stack([answer.index.query_of(image_id).vector for image_id in answer.ids])
    targets = of_vectors(encoder, answer.index.output, vectors, answer.ids)
    maps = SmallMaps(encoder, targets, side=SIDE, announce=announce, images=1 + len(vectors))
    return maps.of(image, _answer(encoder, image), range(len(vectors)))


def _query_image(answer: SimilarCases, places: Places) -> CxrImage | None:
    """The query's picture, or the part of it that was meant, where it is one."""
    from cxr_embed.reporting.panels import case_image, file_image

    like = answer.like
    if len(like) != 1 or len(answer.unlike) or like.texts:
        return None
    image: CxrImage | str
    if like.images:
        image = next(iter(like.images.values()))
    elif like.files:
        image = file_image(Path(like.files[0]))
    else:
        known = answer.index.cases(answer.index.rows_of(like.ids), ["image_id", "content"])
        image = case_image(known[0], places)
    if not isinstance(image, CxrImage):
        return None
    return image if like.box is None else crop_image(image, like.box)


def _answer(encoder: CheckedEncoder, image: CxrImage) -> dict[str, np.ndarray]:
    return {output: vectors[0] for output, vectors in answers_of(encoder, [image]).items()}


def _panel(made: SmallMap | str) -> tuple[np.ndarray | str, tuple[str, ...]]:
    """The picture or why there is none, and the lines below it."""
    if isinstance(made, str):
        return made, ()
    claim = made.claim
    if claim.without is None or claim.elsewhere is None:
        checked = "nothing in the picture speaks for it"
    else:
        checked = f"hidden {claim.without:.3f}, elsewhere {claim.elsewhere:.3f}"
    return made.mixed, (f"{made.value:.3f}", checked, *made.below.rsplit("; ", 1))


def _notes(answer: SimilarCases, encoder: str, words: str, both: bool) -> tuple[str, ...]:
    sides = "The first row of maps is of the query, the second of each case." if both else "The maps are of each case."
    return (
        f"{sides} In colour: what makes the two alike, from 0 to each map's own highest value; outlined: what is above "
        "half of it. Below: the cosine; the cosine with the outlined part hidden, and with as much hidden elsewhere. A "
        "map says what moved this encoder, not that the cases have a finding in common.",
        f"{encoder}, {answer.index.output}: {words}; {NOT_MEASURED}.",
    )
