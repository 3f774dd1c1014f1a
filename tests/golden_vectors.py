"""Measures what an encoder gives for the test picture, in float32, and keeps it as golden.

    python tests/golden_vectors.py NAME [WEIGHTS]

Only for weights that are what the encoder is named after: whoever runs `cxr-embed encoders check` compares with it.
"""

from __future__ import annotations

import json
import sys

from cxr_embed import load_encoder
from cxr_embed.encoders.golden import GOLDEN, compared, golden, picture


def main(name: str, weights: str | None = None) -> None:
    """Adds or replaces a row of the golden vectors."""
    encoder = load_encoder(name, weights=weights, precision="float32", device="cpu")
    assert not encoder.spec.untrained, "weights that were never trained have no golden vector"
    found = encoder.embed([encoder.preprocess(picture())] * 2)
    vectors = {output: array[0] for output, array in found.items()}
    sketches = {output: row["sketch"] for output, row in compared(encoder.spec, vectors, "float32").items()}
    known = {key: row for key, row in golden().items() if row["name"] != name}
    known[encoder.spec.fingerprint] = {"name": name, "engine": encoder.engine, "sketches": sketches}
    rows = ",\n".join(f" {json.dumps(key)}: {json.dumps(known[key])}" for key in sorted(known))
    GOLDEN.write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
