"""FAISS beside torch and beside TensorFlow in one process: in both orders, with threads, and still right."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

# Two OpenMP runtimes in one process can end it, or hang it, when both start threads: so both do, at the same time.
BOTH = """
import sys
from concurrent.futures import ThreadPoolExecutor
first, second = sys.argv[1:]
__import__(first)
__import__(second)
import faiss
import numpy as np
name = first if second == "faiss" else second
rng = np.random.default_rng(0)
vectors = rng.standard_normal((20_000, 64)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
square = rng.standard_normal((400, 400)).astype(np.float32)
expected = square @ square
if name == "torch":
    import torch
    torch.set_num_threads(2)
    def multiply():
        return (torch.from_numpy(square) @ torch.from_numpy(square)).numpy()
else:
    import tensorflow
    def multiply():
        return tensorflow.matmul(tensorflow.constant(square), tensorflow.constant(square)).numpy()
faiss.omp_set_num_threads(2)
index = faiss.index_factory(64, "IVF16,SQfp16", faiss.METRIC_INNER_PRODUCT)
index.train(vectors[:2000])
index.add(vectors)
index.nprobe = 16
def search(part):
    return index.search(vectors[part], 1)[1][:, 0]
with ThreadPoolExecutor(4) as pool:
    for _ in range(3):
        products = [pool.submit(multiply) for _ in range(8)]
        found = list(pool.map(search, [slice(start, start + 50) for start in range(0, 800, 50)]))
        assert (np.concatenate(found) == np.arange(800)).all()
        for product in products:
            assert np.allclose(product.result(), expected, atol=1e-2)
print("both")
"""


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_faiss_beside_a_framework(framework: str, order: str) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed: pip install '.[peers]' or '.[cxr-foundation]'")
    names = ["faiss", framework] if order == "before" else [framework, "faiss"]
    done = subprocess.run([sys.executable, "-c", BOTH, *names], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "both"
