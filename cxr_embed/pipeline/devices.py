"""`--device cuda:0,cuda:1`: which GPUs a run's engines are on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cxr_embed.encoders import resolve_device
from cxr_embed.errors import EncoderError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def resolve_devices(device: str, encoder: str, *, far: bool = False) -> tuple[str, tuple[int, ...]]:
    """The kind of device, as `load_encoder` takes it, and the GPUs by their numbers where some are named.

    A GPU that is named twice has two engines. `far` is for work on other machines: `cuda` is theirs, not looked for.

    Raises:
        EncoderError: for other words, or GPUs that are not here.
    """
    if far and device == "cuda":
        return device, ()
    if "," not in device and not device.startswith("cuda:"):
        return resolve_device(device, encoder), ()
    words = [word.strip() for word in device.split(",")]
    if not all(re.fullmatch(r"cuda:[0-9]{1,3}", word) for word in words):
        cpu = "; on a CPU `workers` says how many there are" if "cpu" in words else ""
        raise EncoderError(f"`device` is auto, cpu, cuda, or GPUs such as cuda:0,cuda:1, not {device!r}{cpu}")
    kind, numbers = resolve_device("cuda", encoder), tuple(int(word[5:]) for word in words)
    if kind == "cuda" and (here := gpu_count()) <= max(numbers):
        raise EncoderError(f"`device` cuda:{max(numbers)}: torch sees cuda:0 to cuda:{here - 1} here")
    return kind, numbers


def gpu_count() -> int:
    """GPUs that torch sees."""
    import torch

    return int(torch.cuda.device_count())


def environment_of(gpu: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A worker's environment, in which one GPU is the only one there is."""
    seen = [word for word in environment.get(VISIBLE, "").split(",") if word.strip()]
    return {**environment, VISIBLE: seen[gpu].strip() if gpu < len(seen) else str(gpu)}
