"""What every torch encoder does alike: device, precision, threads, checks of what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, Precision


class TorchRunner:
    """Runs modules on one device: channels last, without gradients, in bf16 by autocast or in float32."""

    def __init__(self, device: str, precision: Precision, threads: int | None) -> None:
        import torch

        self._torch, self._device, self._precision = torch, device, precision
        if threads is not None:
            torch.set_num_threads(threads)
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.name = f"torch {torch.__version__} {precision} {name}"

    def place(self, module: Any) -> Any:
        """The module, ready to infer on the device."""
        return module.eval().to(self._device, memory_format=self._torch.channels_last)

    def run(self, function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
        """The function of the arrays as tensors on the device: `(B, D)` float32. Out of memory keeps torch's words."""
        return self.run_named(lambda *tensors: {"": function(*tensors)}, *arrays)[""]

    def run_named(self, function: Callable[..., Any], *arrays: np.ndarray) -> dict[str, np.ndarray]:
        """As `run`, of a function that gives tensors by the names of outputs: `{output: (B, ...) float32}`."""
        torch = self._torch
        bf16 = self._precision == "bf16"
        with torch.inference_mode(), torch.autocast(self._device, dtype=torch.bfloat16, enabled=bf16):
            tensors = [torch.tensor(array).to(self._device, non_blocking=True) for array in arrays]
            tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
            return {name: np.asarray(found.float().cpu().numpy()) for name, found in function(*tensors).items()}


def require_finite(vectors: np.ndarray, name: str) -> np.ndarray:
    """The vectors.

    Raises:
        EncoderError: where one has NaN or infinity.
    """
    if not np.isfinite(vectors).all():
        raise EncoderError(f"{name} gives vectors that are not finite (NaN): its weights are damaged, or not float32")
    return vectors


def require_sentences(prompts: Sequence[str]) -> list[str]:
    """The prompts.

    Raises:
        EncoderError: for one that is empty, or a sentence in the place of a list.
    """
    if isinstance(prompts, str):
        raise EncoderError("prompts are a list of sentences, not one")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise EncoderError(f"a prompt is a sentence, not {prompt!r}")
    return list(prompts)


def require_tokens(prompts: Sequence[str], ids: Sequence[Sequence[int]], nothing: Sequence[int]) -> None:
    """Refuses prompts of which a tokenizer leaves nothing: all of them would have the vector of an empty one.

    Args:
        prompts: as they were given.
        ids: of each prompt.
        nothing: of an empty prompt.

    Raises:
        EncoderError: for such a prompt.
    """
    for prompt, own in zip(prompts, ids, strict=True):
        if list(own) == list(nothing):
            raise EncoderError(f"the prompt {prompt[:40]!r} has no word that can be read; give a sentence")


def try_out(
    embed: Callable[[np.ndarray], np.ndarray],
    preprocess: Callable[[CxrImage], np.ndarray],
    width: int,
    name: str,
) -> None:
    """Embeds one picture twice, before a run begins: what is wrong with a checkpoint is said once, not for each image.

    Raises:
        EncoderError: where the model does not take its own pixels, gives other vectors than announced, or is random.
    """
    ramp = np.arange(96 * 80, dtype=np.uint32).reshape(96, 80) * 255 // (96 * 80)
    pixels = preprocess(CxrImage(pixels=ramp.astype(np.uint8), bits=8, content_id="", source="png"))
    with as_encoder_error(f"{name} does not run on the pixels of its own processor"):
        vectors = embed(np.stack([pixels, pixels]))
    if vectors.shape != (2, width):
        raise EncoderError(f"{name} gives vectors of shape {vectors.shape[1:]}, its settings announce ({width},)")
    require_finite(vectors, name)
    if not np.allclose(vectors[0], vectors[1], rtol=0, atol=0.05 * float(np.abs(vectors).max())):
        raise EncoderError(f"{name} gives one picture two vectors: it draws at random, so its vectors mean nothing")


@contextlib.contextmanager
def as_encoder_error(what: str) -> Iterator[None]:
    """Turns what a framework raises into one line that begins with `what`; out of memory stays as it is."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:  # a framework fails in many ways
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EncoderError(f"{what} ({reason[:200]})") from None
