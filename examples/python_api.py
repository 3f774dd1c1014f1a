"""The Python API in one page: a manifest, an encoder, a store, and the vectors by image id.

python examples/python_api.py MANIFEST STORE
"""

import sys

import numpy as np

import cxr_embed


def main(manifest_path: str, store_path: str) -> None:
    """Embeds a manifest with `hog` and finds the most similar pair of different patients."""
    manifest = cxr_embed.read_manifest(manifest_path)
    print(f"{len(manifest)} radiographs, findings: {', '.join(manifest.findings)}")

    store = cxr_embed.embed(manifest, encoder="hog", store=store_path)
    done = store.summary
    print(f"{done.embedded} embedded, {done.unchanged} unchanged, {len(done.failed)} failed")

    embeddings = store.read()  # or store.read(ids=["00000061_012", ...])
    print(f"vectors: {embeddings.vectors.shape} {embeddings.vectors.dtype} by {embeddings.spec.name}")

    unit = embeddings.vectors.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T  # (N, N)
    patients = store.patient_ids
    similarity[patients[:, None] == patients[None, :]] = -1
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    pair = f"{embeddings.ids[first]} and {embeddings.ids[second]}"
    print(f"most alike of different patients: {pair} ({similarity[first, second]:.3f})")

    # One image through the same encoder, without a store:
    encoder = cxr_embed.load_encoder("hog")
    print(f"{encoder.spec.name} gives {dict(encoder.spec.outputs)}, fingerprint {encoder.spec.fingerprint[:12]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
