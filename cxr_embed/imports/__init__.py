"""Precomputed vectors of other programs into a store, so that everything goes on without a model on the machine.

`npz`, `npy` and `tfrecord` each read one kind of file as an `ImportSource`; `importing` puts it into a store; `prompts`
adds prompt vectors. A source is read twice: once to check all of it, once to write. So a fault at its end leaves
nothing half imported.
"""

from cxr_embed.imports.importing import ImportSummary, import_vectors
from cxr_embed.imports.npy import open_npy, open_npy_folder
from cxr_embed.imports.npz import open_npz
from cxr_embed.imports.prompts import import_prompts
from cxr_embed.imports.sources import ImportSource
from cxr_embed.imports.tfrecord import open_tfrecord

__all__ = [
    "ImportSource",
    "ImportSummary",
    "import_prompts",
    "import_vectors",
    "open_npy",
    "open_npy_folder",
    "open_npz",
    "open_tfrecord",
]
