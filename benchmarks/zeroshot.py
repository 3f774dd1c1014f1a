"""Zero-shot scores from stored tokens: the notebook's loop, blocks of NumPy, and this project; memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from common import Line, in_turn, median, seconds

from cxr_embed.prompts import Finding, PromptSet
from cxr_embed.screening import score_store
from cxr_embed.store import Row, Store, StoreWriter, add_prompts, open_store, read_prompts
from cxr_embed.types import EncoderSpec, TextRule
from cxr_embed.zeroshot import Cosines

IMAGES, SLICE = 100_000, 20
SHAPE = (32, 128)
SPEC = EncoderSpec(
    name="random-tokens",
    revision="1",
    preprocessing="none",
    outputs={"contrastive": SHAPE},
    text=TextRule("contrastive", "elixr"),
)
ASKED = PromptSet("14 pairs", tuple(Finding(f"f{n}", (f"positive {n}",), (f"negative {n}",)) for n in range(14)))
BLOCKS = (32, 64, 256, 1024, 4096)


def make_store(path: Path, images: int) -> Store:
    """A store of random tokens whose lengths differ, and 28 random prompts."""
    rng = np.random.default_rng(0)
    with StoreWriter(path, SPEC) as writer:
        for first in range(0, images, 4096):
            count = min(4096, images - first)
            tokens = rng.standard_normal((count, *SHAPE), dtype=np.float32) * rng.uniform(0.5, 2, (count, SHAPE[0], 1))
            for number, values in enumerate(tokens, start=first):
                row = Row(image_id=f"i{number:06d}", patient_id=f"p{number}", content=number.to_bytes(32, "big"))
                writer.add_vector(row, {"contrastive": values})
            writer.flush("numpy")
    add_prompts(path, ASKED.prompts, rng.standard_normal((28, SHAPE[1])), "random")
    return open_store(path)


def notebook_loop(tokens: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """`(N, P)`: image by image, prompt by prompt, token by token."""
    scores = np.empty((len(tokens), len(prompts)))
    for i, image in enumerate(tokens):
        for p, prompt in enumerate(prompts):
            cosines = [np.dot(token, prompt) / (np.linalg.norm(token) * np.linalg.norm(prompt)) for token in image]
            scores[i, p] = max(cosines)
    return scores


def numpy_blocks(tokens: np.ndarray, prompts: np.ndarray, size: int) -> np.ndarray:
    """`(N, P)`: a block to float32, one product, norms, the maximum."""
    directions = np.ascontiguousarray((prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T)
    result = np.empty((len(tokens), len(prompts)), np.float32)
    for start in range(0, len(tokens), size):
        block = tokens[start : start + size].astype(np.float32)
        lengths = np.sqrt(np.einsum("ntd,ntd->nt", block, block))
        products = block.reshape(-1, block.shape[-1]) @ directions
        products /= lengths.reshape(-1, 1)
        result[start : start + size] = products.reshape(len(block), -1, len(prompts)).max(axis=1)
    return result


def run(work: Path) -> list[Line]:
    """Speed against both, the largest difference, and memory of small and large stores."""
    store = make_store(work / "tokens", IMAGES)
    prompts = read_prompts(store).vectors
    engine = Cosines(prompts, SHAPE, "float16")

    def over_store(work: object) -> float:
        return seconds(lambda: [work(vectors) for _, _, vectors in store.mapped()])  # type: ignore[operator]

    best = min(BLOCKS, key=lambda size: over_store(lambda tokens: numpy_blocks(tokens, prompts, size)))
    figures = in_turn(
        5,
        ours=lambda: over_store(engine),
        blocks=lambda: over_store(lambda tokens: numpy_blocks(tokens, prompts, best)),
        whole=lambda: seconds(lambda: score_store(open_store(store.path), ASKED)),
    )
    some = store.read(store.ids[:SLICE]).vectors.astype(np.float32)
    loop = median([seconds(lambda: notebook_loop(some, prompts)) for _ in range(3)]) / SLICE * IMAGES
    ours, blocks, whole = (median(figures[name]) for name in ("ours", "blocks", "whole"))
    off = max(np.abs(engine(vectors) - numpy_blocks(vectors, prompts, best)).max() for _, _, vectors in store.mapped())
    task = f"zero-shot, {IMAGES:,} x 32 x 128 float16 in mapped files, 28 prompts"
    told = f"{IMAGES / ours / 1000:,.0f}k images/s, {ours:.2f} s"
    return [
        Line(f"{task}, against the notebook's loop ({SLICE} images timed)", "300x", f"{loop / ours:,.0f}x ({told})"),
        Line(
            f"{task}, against blocks of NumPy (the best of {len(BLOCKS)} sizes: {best} images)",
            "1.5x",
            f"{blocks / ours:.1f}x ({blocks:.2f} s); largest difference {off:.0e}",
        ),
        Line("the same as a whole run: store opened, rows read, scores of 14 findings", "-", f"{whole:.2f} s"),
        memory(work),
    ]


def memory(work: Path) -> Line:
    """Peak resident memory of a run of its own over a tenth of the images, and over all."""
    make_store(work / "tenth", IMAGES // 10)
    peaks = [peak_of_run(work / name) for name in ("tenth", "tokens")]
    told = f"{peaks[1] / 1e6:.0f} MB against {peaks[0] / 1e6:.0f} MB"
    return Line(f"its peak memory, {IMAGES:,} images against {IMAGES // 10:,}", "flat", f"{told}; 819 MB of tokens")


def peak_of_run(store: Path) -> int:
    """Peak resident memory of `score_store` in a process of its own, in bytes."""
    # Not ru_maxrss: a child's starts at what its parent had in memory.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from zeroshot import ASKED, open_store, score_store; "
        "score_store(open_store(sys.argv[2]), ASKED); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    call = [sys.executable, "-c", code, str(Path(__file__).parent), str(store)]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout) * 1024
