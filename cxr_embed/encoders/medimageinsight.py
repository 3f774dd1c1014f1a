"""MedImageInsight (Codella et al., 2024, arXiv 2410.06542): a folder as its publisher gives it out.

Its weights are a safetensors file, whatever its name ends in; a pickle in its place is not opened. `config.yaml` says
how large the towers are and what the pixels are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checkpoint import Checkpoint, local_checkpoint, read_json, scale_of, tensor_shapes, terms_of
from cxr_embed.encoders.digests import folder_digest
from cxr_embed.encoders.dual import DualEncoder, filled, tensors_in
from cxr_embed.encoders.hub import HubModel, cached_folder, hub_folder
from cxr_embed.encoders.medimageinsight_settings import read_settings
from cxr_embed.encoders.pixels import as_uint8
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.shared import SHARED, alone
from cxr_embed.encoders.torch_runner import as_encoder_error
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.io.digests import json_digest
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule

RELEASE = "2024.09.27"
CONFIG = "config.yaml"
CELL = 32  # pixels on a side that a cell of the last map stands for
WORDS = "language_model/clip_tokenizer_4.16.2"
WEIGHTS = "vision_model/medimageinsigt-v1.0.0.pt"  # as it is spelled
_VOCABULARY = ("vocab.json", "merges.txt")
# Of each tower: how names of its tensors begin, and how they begin today where they are earlier ones.
_IMAGE = {
    "image_encoder.": "",
    "image_projection": "",
    "visual.": "image_encoder.",
    "vision_projection": "image_projection",
}
_TEXT = {"lang_encoder.": "", "lang_projection": "", "text.": "lang_encoder.", "text_projection": "lang_projection"}


class MedImageInsightEncoder(DualEncoder):
    """A folder as it is published."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("image",),
    ) -> None:
        self._folder, source = _find(name, weights)
        self._file = self._folder / WEIGHTS
        self._settings = settings = read_settings(self._folder / CONFIG)
        self._words = [self._folder / WORDS / part for part in _VOCABULARY]
        self._known = read_json(self._words[0])
        cells = settings.side // CELL
        shapes: dict[str, tuple[int, ...]] = {"image": (settings.shared,), SHARED: (cells, cells, settings.shared)}
        spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=(
                f"grey as 8 bits, 0..max to 0..255, half up; to {settings.side} x {settings.side} (Pillow, bicubic); "
                f"three equal channels, less {settings.mean}, by {settings.deviation}"
            ),
            outputs={output: shapes[output] for output in outputs},
            weights=json_digest({"files": folder_digest(self._folder, [*self._words, self._file]), **asdict(settings)}),
            weights_source=source,
            text=TextRule("image", "clip", _scale(self._file)),
            licence=terms_of(name, Checkpoint(self._folder, source)),
            grids={SHARED: Grid("whole")} if SHARED in outputs else {},
        )
        super().__init__(
            spec,
            tower_outputs={"image": settings.shared},
            vocabulary=len(self._known),
            limit=settings.context,
            files=[self._file, self._folder / CONFIG, *self._words],
            device=device,
            precision=precision,
            threads=threads,
        )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(1, 480, 480)` uint8, whatever the picture's shape; the tower normalises it."""
        from PIL import Image

        grey = Image.fromarray(as_uint8(image.pixels, image.max_value))
        return np.asarray(grey.resize((self._settings.side, self._settings.side), Image.Resampling.BICUBIC))[None]

    @property
    def spaces(self) -> dict[str, str]:
        """`shared` lies in the space of `image`."""
        return {SHARED: "image"}

    def _outputs(self, tower: Any, pixels: Any) -> dict[str, Any]:
        if SHARED not in self._spec.outputs:
            return super()._outputs(tower, pixels)
        found = tower.map(pixels)
        shared = alone(found.permute(0, 2, 3, 1), lambda cell: tower.read(cell.transpose(1, 2)[..., None]))
        return {"image": tower.read(found), SHARED: shared}

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return Grid("whole")

    def load_image_tower(self) -> Any:
        """With all of its tensors from the file."""
        import torch

        from cxr_embed.encoders.medimageinsight_towers import ImageTower

        with torch.device("meta"), as_encoder_error(f"{self._folder / CONFIG} describes no image tower"):
            tower = ImageTower(self._settings)
        return self._filled(tower, "image tower", _IMAGE)

    def load_text_tower(self) -> Any:
        """With all of its tensors from the file."""
        import torch

        from cxr_embed.encoders.medimageinsight_towers import TextTower

        with torch.device("meta"), as_encoder_error(f"{self._folder / CONFIG} describes no text tower"):
            tower = TextTower(self._settings, len(self._known))
        return self._filled(tower, "text tower", _TEXT)

    def _filled(self, tower: Any, title: str, kind: Mapping[str, str]) -> Any:
        tensors = tensors_in([self._file], lambda name: name.startswith(tuple(kind)))
        now = {_now(name, kind): values for name, values in tensors.items()}
        names = tower.names(list(now))
        found = {names.get(name, name): values for name, values in now.items()}
        return filled(tower, found, self._file, f"MedImageInsight's {title}")

    def load_tokenizer(self) -> Any:
        """CLIP's, by the folder's vocabulary; capitals mean nothing to it."""
        from transformers import CLIPTokenizer

        vocabulary, merges = map(str, self._words)
        return CLIPTokenizer(vocab=vocabulary, merges=merges)


def _scale(path: Path) -> float:
    """Of the cosines, before their softmax.

    Raises:
        EncoderError: where it is not there, or the file is not a safetensors file.
    """
    from safetensors import safe_open

    if tensor_shapes(path).get("logit_scale") != ():
        raise EncoderError(f"{path}: has no logit_scale, so it is not MedImageInsight's weights")
    with as_encoder_error(f"{path}: its logit_scale is not a number"), safe_open(path, framework="numpy") as file:
        return scale_of(float(file.get_tensor("logit_scale")), str(path))


def _now(name: str, kind: Mapping[str, str]) -> str:
    """A tensor's name as it is spelled today."""
    early, today = next(pair for pair in kind.items() if name.startswith(pair[0]))
    return today + name.removeprefix(early) if today else name


def _find(name: str, weights: str | Path | None) -> tuple[Path, str]:
    """The folder that has `config.yaml`, and where it came from: the one that is named, or the one around it.

    Raises:
        EncoderError: where it cannot be had, or a file is missing.
    """
    model = encoder_card(name).hub
    assert isinstance(model, HubModel)
    if weights is None:
        around = cached_folder(model) or hub_folder(model)
        return around / RELEASE, f"{model.repo}@{around.name}"
    folder = Path(weights)
    if not folder.is_dir():
        raise EncoderError(f"{folder}: no such folder; give the one that holds {CONFIG}")
    if not (folder / CONFIG).is_file() and (folder / RELEASE).is_dir():
        folder = folder / RELEASE
    missing = [
        part
        for part in (CONFIG, WEIGHTS, *(f"{WORDS}/{part}" for part in _VOCABULARY))
        if not (folder / part).is_file()
    ]
    if missing:
        raise EncoderError(f"{folder}: {missing[0]} is missing (half a download?); download {model.repo} again")
    return folder, local_checkpoint(folder).source


make = MedImageInsightEncoder
