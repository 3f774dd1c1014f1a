"""The methods of heat maps, a row each, and which of them an encoder and what is asked of it can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from cxr_embed.choices import ExplainMethod
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import MapError
from cxr_embed.explanation.cam import Cam
from cxr_embed.explanation.gradcam import GradCam
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.occlusion import Occlusion
from cxr_embed.explanation.patch import Patch
from cxr_embed.explanation.placing import Area
from cxr_embed.explanation.targets import Targets
from cxr_embed.types import CxrImage


class Method(Protocol):
    """How the maps of a picture are made, for one encoder and what is asked of its answers."""

    @property
    def name(self) -> str:
        """As the user chooses it."""

    @property
    def layer(self) -> str:
        """The encoder's output, or its network's layer, that maps are of; `picture` where the picture is changed."""

    @property
    def words(self) -> str:
        """Method and layer, for people."""

    @property
    def pictures(self) -> int:
        """How many pictures the encoder sees for one image's maps, the whole one among them."""

    @property
    def intercept(self) -> np.ndarray | None:
        """`(T,)`: what the sum of a map lacks to be the value; None where the sum means nothing."""

    def maps(
        self, image: CxrImage, answer: Mapping[str, np.ndarray], whole: np.ndarray, done: Callable[[int], object]
    ) -> tuple[np.ndarray, Area]:
        """The maps of a picture, `(T, h, w)`, and what part of it they cover.

        Args:
            image: the picture.
            answer: the encoder's, of this one: output to vectors `(*shape)`.
            whole: `(T,)` its values.
            done: called with the number of further pictures embedded.
        """


Maker = Callable[[CheckedEncoder, Targets, Hiding], Method]  # raises MapError where it cannot be had, and says why

# In the order in which `auto` tries them: the first one that can be had is taken.
METHODS: dict[str, Maker] = {"cam": Cam.of, "patch": Patch.of, "gradcam": GradCam.of, "occlusion": Occlusion.of}


def method_of(name: ExplainMethod, encoder: CheckedEncoder, targets: Targets, hiding: Hiding) -> Method:
    """The method of that name, or with `auto` the first one that can be had.

    Raises:
        MapError: where it cannot be had.
    """
    return chosen_method(name, encoder, targets, hiding)[0]


def chosen_method(
    name: ExplainMethod, encoder: CheckedEncoder, targets: Targets, hiding: Hiding
) -> tuple[Method, list[MapError]]:
    """As `method_of`, and with `auto` why those before it cannot be had.

    Raises:
        MapError: where none can be had.
    """
    if name != "auto":
        return METHODS[name](encoder, targets, hiding), []
    refusals: list[MapError] = []
    for each, maker in METHODS.items():
        if each == "patch" and not _of_words(encoder, targets):
            continue
        try:
            return maker(encoder, targets, hiding), refusals
        except MapError as error:
            refusals.append(error)
    raise refusals[-1]


def _of_words(encoder: CheckedEncoder, targets: Targets) -> bool:
    """Whether vectors are asked that learned to be compared: a probe, and a class token, never met a patch."""
    text = encoder.spec.text
    return text is not None and targets.output == text.output and targets.unit == "cosine"
