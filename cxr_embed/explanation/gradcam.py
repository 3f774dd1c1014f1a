"""`gradcam`: the last cells of a network, each channel weighed by the value's mean gradient. Needs torch and captum.

Selvaraju et al., 2017, arXiv 1610.02391, without its last step, which sets to 0 what speaks against the value. The
cells are those of a grid that the value is computed from, where there is one; else of a layer of the torch network
(`encoders.marked` says which).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.encoders.marked import Mark
from cxr_embed.errors import EncoderError, MapError
from cxr_embed.explanation.cam import MAP
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.placing import Area, area_on
from cxr_embed.explanation.targets import Targets
from cxr_embed.explanation.tensors import TensorValues
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage

_INSTEAD = "use `method='occlusion'`"
_SAME = 1e-2  # of the value, or of 1 where that is larger: that two engines may differ by


@dataclass(frozen=True, kw_only=True)
class GradCam:
    """`gradcam` of an encoder.

    Attributes:
        layer: that the cells are of.
        words: method and layer, for people.
        grid: where the cells lie on the picture.
        outputs: the picture, the encoder's answer of it, and what is done to the cells, to the vectors of the targets'
            output, a tensor.
        values: the targets', of these.
    """

    layer: str
    words: str
    grid: Grid
    outputs: Callable[[CxrImage, Mapping[str, np.ndarray], Mark], Any]
    values: TensorValues
    name = "gradcam"
    pictures = 1
    intercept = None

    @classmethod
    def of(cls, encoder: CheckedEncoder, targets: Targets, hiding: Hiding) -> GradCam:
        """The method, where it can be had.

        Raises:
            MapError: where it cannot; the message says why.
        """
        del hiding
        values = targets.tensor_values
        if values is None:
            raise MapError(f"`method` gradcam: {targets.why}, and has no gradient; {_INSTEAD}")
        if missing := [name for name in ("torch", "captum") if importlib.util.find_spec(name) is None]:
            raise MapError(
                f"`method` gradcam needs {missing[0]}, which is not installed: pip install 'cxr-embed[explain]'; "
                f"or {_INSTEAD}"
            )
        if found := _of_grid(encoder, targets):
            layer, outputs = found
            rows, columns, _ = encoder.spec.outputs[layer]
            after = ", after the last activation" if layer == MAP and targets.output != MAP else ""
            words = f"gradcam, layer {layer} ({rows} x {columns} cells){after}"
            return cls(layer=layer, words=words, grid=encoder.spec.grids[layer], outputs=outputs, values=values)
        try:
            network = encoder.marked()
        except EncoderError as error:
            raise MapError(f"`method` gradcam: {error}; {_INSTEAD}") from None

        def run(image: CxrImage, _: Mapping[str, np.ndarray], mark: Mark) -> Any:
            return network.run(encoder.preprocess(image)[None], mark)[targets.output]

        words = f"gradcam, layer {network.layer} ({network.shape[0]} x {network.shape[1]} cells), {network.words}"
        return cls(layer=network.layer, words=words, grid=network.grid, outputs=run, values=values)

    def maps(
        self, image: CxrImage, answer: Mapping[str, np.ndarray], whole: np.ndarray, done: Callable[[int], object]
    ) -> tuple[np.ndarray, Area]:
        """The maps of a picture: see `Method`.

        Raises:
            MapError: where the network gives other values than the encoder.
        """
        del done
        grids, own = gradcam_maps(lambda mark: self.outputs(image, answer, mark), self.values, len(whole))
        if np.abs(own - whole).max() > _SAME * max(1.0, float(np.abs(whole).max())):
            raise MapError(f"`method` gradcam: the value of {self.layer} is another than the encoder's; {_INSTEAD}")
        return grids, area_on(image, self.grid)


def gradcam_maps(outputs: Callable[[Mark], Any], values: TensorValues, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """captum's Grad-CAM of several values of one picture, in one pass.

    Args:
        outputs: what is done to the cells `(1, D, H, W)` to vectors `(B, *shape)`, tensors.
        values: vectors to `(B, targets)`.
        targets: how many.

    Returns:
        Maps `(targets, H, W)` float64, and the values `(targets,)`.
    """
    import torch
    from captum.attr import LayerGradCam

    class Valued(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.cells = torch.nn.Identity()
            self.found: Any = None

        def forward(self, one: Any) -> Any:
            # A copy of the cells for each value: the rest of the network sees them as so many pictures.
            vectors = outputs(lambda cells: self.cells(cells.repeat(targets, 1, 1, 1)))
            self.found = values(vectors.double())
            return self.found

    model = Valued()
    maps = LayerGradCam(model, model.cells).attribute(torch.zeros(1), target=list(range(targets)))
    found = model.found.detach().diagonal().cpu().numpy()
    return maps[:, 0].detach().double().cpu().numpy(), np.asarray(found, np.float64)


def _of_grid(
    encoder: CheckedEncoder, targets: Targets
) -> tuple[str, Callable[[CxrImage, Mapping[str, np.ndarray], Mark], Any]] | None:
    """The grid of the encoder's answer that the targets' output is, or is means and maxima of, and how it becomes that.

    None where there is none, or where the network itself can be asked.
    """
    output, grids = targets.output, encoder.spec.grids
    if output in grids:
        return output, lambda _, answer, mark: mark(_cells(answer[output])).permute(0, 2, 3, 1)
    head = encoder.projections.get(output)
    if MAP not in grids or hasattr(encoder.encoder, "marked") or (output != "features" and head is None):
        return None

    def outputs(_: CxrImage, answer: Mapping[str, np.ndarray], mark: Mark) -> Any:
        import torch

        cells = mark(_cells(answer[MAP]))
        most = cells.shape[1] - encoder.maxima
        features = torch.cat([cells[:, :most].mean(dim=(2, 3)), cells[:, most:].amax(dim=(2, 3))], dim=1)
        if head is None:
            return features
        weight, bias = (torch.from_numpy(np.asarray(part)) for part in head)
        return features @ weight.T + bias

    return MAP, outputs


def _cells(grid: np.ndarray) -> Any:
    """A grid `(H, W, D)` as a tensor `(1, D, H, W)`."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(grid)).permute(2, 0, 1)[None]
