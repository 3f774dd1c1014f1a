"""Whether an encoder that is to run here loads, what it is, and whether it does as it should."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr_embed.encoders.checked import CheckedEncoder
from cxr_embed.encoders.digests import remembered_sha256
from cxr_embed.types import CxrImage


def check_encoder(encoder: CheckedEncoder, images: Sequence[CxrImage]) -> dict[str, Any]:
    """Loads an encoder's model, runs it on some radiographs and returns what was found, as plain JSON values.

    Args:
        encoder: from `load_encoder`.
        images: two or more radiographs that differ.

    Returns:
        `spec` and `fingerprint`; `files` with sizes and digests; `engine` and `notes` after the runs;
        `seconds_an_image`, alone and in a batch; `vectors`: whether images that differ have vectors that differ;
        `own`: what only this kind of encoder knows.

    Raises:
        EncoderError: where it cannot be loaded or answers something else than was requested.
    """
    inputs = [encoder.preprocess(image) for image in images]
    encoder.embed(_batch(inputs[:1]))  # what is built with the first call is no part of the times
    encoder.embed(_batch(inputs))
    alone, _ = _timed(encoder, inputs[:1])
    together, found = _timed(encoder, [encoder.preprocess(image) for image in images])
    rows = np.concatenate([np.asarray(array).reshape(len(images), -1) for array in found.values()], axis=1)
    own = encoder.encoder.check(images) if hasattr(encoder.encoder, "check") else {}
    files = sorted(getattr(encoder.encoder, "files", ()))
    folder = os.path.commonpath(files) if files else ""
    return {
        "name": encoder.spec.name,
        "fingerprint": encoder.spec.fingerprint,
        "spec": encoder.spec.to_json(),
        "files": [
            {
                "file": path.relative_to(folder).as_posix(),
                "bytes": path.stat().st_size,
                "sha256": remembered_sha256(path),
            }
            for path in files
        ],
        "engine": encoder.engine,
        "notes": list(encoder.notes),
        "images": len(images),
        "seconds_an_image": {"alone": alone, "in_a_batch": together},
        "vectors": {"different": len(np.unique(rows, axis=0)) == len(images)},
        "own": own,
    }


def _batch(inputs: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    return inputs if inputs[0].ndim == 1 and inputs[0].dtype == np.uint8 else np.stack(inputs)


def _timed(encoder: CheckedEncoder, inputs: list[np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds an image, and the vectors."""
    start = time.perf_counter()
    found = encoder.embed(_batch(inputs))
    return (time.perf_counter() - start) / len(inputs), found
