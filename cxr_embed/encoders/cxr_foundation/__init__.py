"""google/cxr-foundation (ELIXR v2; Xu et al., 2023, arXiv 2308.01317): images and prompts in one space.

Facts from its public model card, notebooks and serving container (github.com/Google-Health/cxr-foundation, Apache-2.0),
and from public scripts that ran the weights. The weights are Google's, under the Health AI Developer Foundations terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr_embed.encoders.cxr_foundation.model_folder import ELIXR_C, FOLDER_VARIABLE, QFORMER, models_folder
from cxr_embed.encoders.cxr_foundation.pixels import (
    RECIPES,
    SIDE,
    notebook_pixels,
    png,
    png_pixels,
    prepared,
    serving_pixels,
)
from cxr_embed.encoders.cxr_foundation.tokenizer import load_tokenizer, tokenize
from cxr_embed.encoders.digests import folder_digest
from cxr_embed.encoders.hub import named_folder
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.tensorflow_process import BatchComparison, TensorFlowProcess
from cxr_embed.encoders.transformers_loading import word_ids
from cxr_embed.errors import EncoderError, EncoderUnusable, ImageError
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule

# How far a batch through the network may lie from the signature's vectors, over their largest value.
TOLERANCE = 1e-5
# Radiographs of the first batch that go both ways.
_PROVEN_ON = 2
_PREPARED = "prepared for a graph that decodes to "  # input_form: the depth in bits follows


class CxrFoundationEncoder:
    """Both towers, in a TensorFlow process that starts with the first batch or prompt.

    The published signature takes one radiograph a call. Where the graph has the published network's tensors, the first
    radiographs go both ways: by the signature, and prepared by us through the network in batches. Where both agree
    within `TOLERANCE` the others go in batches; else, and for single radiographs, the signature is used.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: Path | None = None,
        device: str = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("contrastive", "general"),
        pixels: str = "notebook",
    ) -> None:
        if precision != "float32":
            raise EncoderError(f"{name} computes in float32, as it was published; leave out `precision`")
        card = encoder_card(name)
        assert card.hub is not None
        named = named_folder(weights, FOLDER_VARIABLE)
        self.folder = models_folder(named, card.hub)
        self._named = named is not None
        towers = (self.folder / ELIXR_C, self.folder / QFORMER)
        shapes = {output: card.outputs[output] for output in outputs}
        self._process = TensorFlowProcess(*towers, device, threads, shapes)
        self._pixels = pixels
        self._way: Literal["untried", "signature", "network"] = "untried"
        self._depth: int | None = None  # to which the graph decodes, once the network is proven
        self._by = ""  # who runs the network that is proven
        self._note = ""
        self.files = [path for tower in towers for path in tower.rglob("*") if path.is_file()]
        note = self.folder / "SOURCE"  # a folder that is not Google's says what it is
        source = f"{card.hub.repo}@{card.hub.revision[:12]}" if named is None else f"{card.hub.repo}, a local folder"
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=RECIPES[pixels],
            outputs=shapes,
            weights=folder_digest(self.folder, self.files),
            weights_source=note.read_text().strip() if note.is_file() else source,
            text=TextRule("contrastive", "elixr") if "contrastive" in outputs else None,
            grids={"elixr_c": Grid("whole")} if "elixr_c" in outputs else {},
        )

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """TensorFlow's version and device, to how many bits the graph decodes, and which way images take by now."""
        loaded = self._process.loaded
        depth = loaded.facts["decode_depth"]
        decodes = f"the graph decodes to {depth} bits" if depth else "the graph's depth is not known"
        way = f"by its network, run by {self._by}" if self._way == "network" else "by its signature"
        return f"{loaded.engine}; {decodes}; {way}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Why it does not run as fast as it could."""
        return (*self._process.loaded.notes, *([self._note] if self._note else []))

    @property
    def input_form(self) -> str:
        """Blank where `preprocess` gives PNG files, else that it gives prepared pictures, and for which depth."""
        return f"{_PREPARED}{self._depth}" if self._way == "network" else ""

    @input_form.setter
    def input_form(self, form: str) -> None:
        self._way, self._depth = "network", int(form.removeprefix(_PREPARED))

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """A PNG file of the pixel recipe, `(bytes,)` uint8; a prepared picture, `(1280, 1280)` float32, by now.

        Raises:
            ImageError: where nothing of the image would be left (`_check_depth`).
        """
        recipe = notebook_pixels if self._pixels == "notebook" else serving_pixels
        pixels = recipe(image.pixels)
        if self._depth is None:
            return png(pixels)
        self._check_depth(pixels, self._depth)
        return prepared(pixels, self._depth)

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """B inputs, PNG files or prepared pictures, to `{output: (B, *shape) float32}`.

        Raises:
            EncoderError: where the model fails, or an input is not of a form that `preprocess` gives by now.
            ImageError: where nothing of an image would be left (`_check_depth`).
        """
        files = [given for given in batch if given.ndim == 1]
        pictures = [given for given in batch if given.shape == (SIDE, SIDE) and given.dtype == np.float32]
        if len(files) + (len(pictures) if self._way == "network" else 0) < len(batch):
            raise EncoderError(f"an input of {self.spec.name} is not what its `preprocess` gives")
        depth = self._process.loaded.facts["decode_depth"]
        lost = None
        if self._pixels == "serving" and depth == 8:
            files, lost = self._parted(files, depth)
        # Also where a file is refused: with the network proven, the next ones are refused before they are in a batch.
        if self._way == "untried" and len(files) > 1:
            self._prove(files)
        if lost is not None:
            raise lost
        if self._way != "network":
            return self._process.images(files)
        assert self._depth is not None
        pictures = [given if given.ndim == 2 else prepared(png_pixels(given), self._depth) for given in batch]
        return self._process.pictures(pictures, self._by)

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """`(P, 128)` float32: `contrastive_txt_emb` of each prompt; with `cut`, of its first 126 word pieces.

        Raises:
            EncoderError: for an empty prompt, or, unless it may be cut, one of more than 126 word pieces.
        """
        return self._process.prompts(*tokenize(self._tokenizer, prompts, cut=cut))

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word's pieces alone; none where the tokenizer does not know it."""
        return word_ids(self._tokenizer, word)

    def check(self, images: Sequence[CxrImage]) -> dict[str, Any]:
        """What the TensorFlow process found, and how far apart both ways are on some radiographs; JSON values.

        Raises:
            EncoderError: where the model fails.
        """
        facts: dict[str, Any] = dict(self._process.loaded.facts)
        recipe = notebook_pixels if self._pixels == "notebook" else serving_pixels
        files = [png(recipe(image.pixels)) for image in images]
        try:
            found = self._compare(files)
        except EncoderUnusable:
            raise
        except EncoderError as error:
            return {**facts, "batches": {"proven": False, "why": str(error)}}
        if found is None:
            why = "the graph has not the published network's tensors, or decodes to a depth that is not plain"
            return {**facts, "batches": {"proven": False, "why": why}}
        return {**facts, "batches": {"proven": found.apart <= TOLERANCE, "allowed": TOLERANCE, **found._asdict()}}

    def _compare(self, files: Sequence[np.ndarray]) -> BatchComparison | None:
        """How far apart the signature and the network are on PNG files of the recipe; None where there is one way."""
        facts = self._process.loaded.facts
        depth = facts["decode_depth"]
        if not facts["takes_batches"] or depth is None:
            return None
        return self._process.compare(files, [prepared(png_pixels(file), depth) for file in files], TOLERANCE)

    def close(self) -> None:
        """Ends the TensorFlow process; the next call starts another, whose network must prove itself anew."""
        self._process.close()
        self._way, self._depth, self._by, self._note = "untried", None, "", ""

    def _parted(self, files: Sequence[np.ndarray], depth: int) -> tuple[list[np.ndarray], ImageError | None]:
        """The files of which something is left, and why another one is refused."""
        kept, lost = [], None
        for file in files:
            try:
                self._check_depth(png_pixels(file), depth)
                kept.append(file)
            except ImageError as error:
                lost = error
        return kept, lost

    def _check_depth(self, pixels: np.ndarray, depth: int) -> None:
        """Refuses what the recipe and the graph together make constant: values up to 255, whose upper 8 bits are kept.

        Raises:
            ImageError: saying what to do.
        """
        if self._pixels == "serving" and depth == 8 and pixels.dtype == np.uint16 and pixels.max() < 256:
            raise ImageError(
                "encoder",
                "this graph decodes to 8 bits, so nothing of an 8-bit image is left by the serving recipe; "
                "use the notebook recipe",
            )

    def _prove(self, files: Sequence[np.ndarray]) -> None:
        """Decides which way images take. Blank images decide nothing: the next batch decides."""
        shown = [pixels for pixels in map(png_pixels, files[:_PROVEN_ON]) if pixels.min() < pixels.max()]
        if not shown:
            return
        first = shown[0]
        # Both depths that a PNG can have are tried, and so is a batch, whatever the first radiographs are.
        if all(pixels.dtype == np.uint8 for pixels in shown):
            shown.append(first.astype(np.uint16) << 8 | first[::-1])
        elif all(pixels.dtype == np.uint16 for pixels in shown):
            shown.append((first >> 8).astype(np.uint8))
        self._way = "signature"
        try:
            found = self._compare([png(pixels) for pixels in shown])
        except EncoderUnusable:
            raise
        except EncoderError as error:
            if "out of memory" in str(error):
                self._way = "untried"
                raise
            self._note = f"images go through the model one by one: its network takes no batches ({error})"
            return
        if found is None:
            return
        if found.apart <= TOLERANCE:
            self._way, self._depth, self._by = "network", self._process.loaded.facts["decode_depth"], found.network_by
        else:
            self._note = (
                f"images go through the model one by one: in batches its features would be {found.apart:.1e} apart "
                f"from its signature's, {TOLERANCE:.0e} of the largest is allowed"
            )

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.folder if self._named else None)


make = CxrFoundationEncoder
