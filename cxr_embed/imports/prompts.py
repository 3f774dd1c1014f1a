"""Prompt vectors of another program into a store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cxr_embed.errors import StoreError
from cxr_embed.imports.npz import read_arrays
from cxr_embed.imports.sources import ImportSource
from cxr_embed.store.layout import Header
from cxr_embed.store.prompts import add_prompts, prompt_width
from cxr_embed.store.writer import describe


def import_prompts(path: Path, encoder: str, store: str | os.PathLike[str]) -> tuple[int, int]:
    """Adds the prompts of an `.npz` archive to a store: the key of an array is the prompt, letter for letter.

    Args:
        path: the archive; one vector a prompt, as long as the last axis of the store's image vectors.
        encoder: the name of the encoder that embedded the prompts; it must be the store's.
        store: an existing store.

    Returns:
        Prompts in the file, and prompts in the store now. A prompt that was there gets the new vector.

    Raises:
        CxrEmbedError: for a file that does not hold such vectors. The store is then as it was.
        StoreError: for a store of another encoder, or of one without text.
    """
    spec = Header.read(Path(store)).spec
    if spec.name != encoder:
        raise StoreError(f"{store} holds vectors of {describe(spec)}, the prompts are said to be of {encoder}")
    width = prompt_width(spec, store)
    vectors = list(read_arrays(path, (width,)))
    source = ImportSource((path,), len(vectors), lambda shape: read_arrays(path, shape))
    said = f"imported from {source.name} (SHA-256 {source.digest()})"
    stacked = np.stack([vector.array for vector in vectors])
    prompts = add_prompts(store, [vector.image_id for vector in vectors], stacked, said)
    return len(vectors), len(prompts)
