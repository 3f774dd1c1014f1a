"""`patch`: each patch's own vector asked what the picture's is asked, where both lie in one space. One picture a map.

A cosine of a patch with a prompt, or with another case, and a probe's log odds say where, not whether: all patches of a
picture may have it in common. So 0 is the mean of the picture's patches. BioViL-T's authors find phrases so, and smooth
the map afterwards (Bannur et al., 2023, arXiv 2301.04558).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import MapError
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.placing import Area, area_of
from cxr_embed.explanation.targets import Targets
from cxr_embed.types import CxrImage, EncoderSpec


@dataclass(frozen=True)
class Patch:
    """`patch` of an encoder's grid."""

    spec: EncoderSpec
    targets: Targets
    layer: str
    name = "patch"
    pictures = 1
    intercept = None

    @classmethod
    def of(cls, encoder: CheckedEncoder, targets: Targets, hiding: Hiding) -> Patch:
        """The method, where patches lie in the space of the vector that is asked.

        Raises:
            MapError: where they do not; the message says why.
        """
        del hiding
        spec, output = encoder.spec, targets.output
        for grid, vector in encoder.spaces.items():
            if vector == output and grid in spec.grids and spec.outputs[grid][-1:] == spec.outputs[output]:
                return cls(spec, targets, grid)
        raise MapError(
            f"`method` patch: {spec.name} has no patches in one space with {output}; use `method='occlusion'`"
        )

    @property
    def words(self) -> str:
        """Method and layer, for people."""
        rows, columns, _ = self.spec.outputs[self.layer]
        return f"patch, layer {self.layer} ({rows} x {columns} cells), less the picture's mean"

    def maps(
        self, image: CxrImage, answer: Mapping[str, np.ndarray], whole: np.ndarray, done: Callable[[int], object]
    ) -> tuple[np.ndarray, Area]:
        """The maps of a picture: see `Method`."""
        del whole, done
        grid = answer[self.layer]
        values = self.targets.values(grid.reshape(-1, grid.shape[-1]))  # (H * W, T)
        maps = (values - values.mean(axis=0)).T.reshape(-1, *grid.shape[:2])
        return maps, area_of(image, self.spec, self.layer)
