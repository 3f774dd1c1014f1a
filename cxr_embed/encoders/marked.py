"""Networks of torch whose last cells can be looked at on their way to the outputs: what gradients are taken of.

Which layer that is follows from the network's kind, found by running it once:

* of a transformer, the patches that go into its last block. Those that come out of it have no gradient where the
  vector is the class token's;
* of another network, the last map, as it is pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.encoders.patches import covered
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid

Mark = Callable[[Any], Any]  # cells `(1, D, H, W)`, a tensor, to those `(B, D, H, W)` that the network goes on with
Outputs = Callable[[Any, Any], dict[str, Any]]  # the module and pixels to tensors by the names of outputs
_MOST_BEFORE = 64  # other tokens that stand before the patches


@dataclass(frozen=True, kw_only=True)
class MarkedNetwork:
    """A network and its last cells.

    Attributes:
        layer: its name in the network.
        words: which cells these are, for people.
        shape: rows and columns.
        grid: where they lie on the picture.
        run: one model input `(1, ...)` as `preprocess` gives it, and what is done to the cells, to tensors by the names
            of outputs, with gradients from the cells on.
    """

    layer: str
    words: str
    shape: tuple[int, int]
    grid: Grid
    run: Callable[[np.ndarray, Mark], dict[str, Any]]


@dataclass(frozen=True)
class _Call:
    """A module's call: its name, and the shapes of what it was given and of what it gave."""

    name: str
    given: tuple[int, ...]
    gave: tuple[int, ...]

    @property
    def is_block(self) -> bool:
        """Whether it may be a transformer's: one of several in a row, tokens to tokens."""
        return self.name.rpartition(".")[2].isdigit() and len(self.given) == 3 and self.given == self.gave

    @property
    def is_map(self) -> bool:
        """Whether a map came of it."""
        return len(self.gave) == 4 and self.gave[0] == 1 and sorted(self.gave)[1] > 1


def mark_network(
    module: Any,
    outputs: Outputs,
    example: np.ndarray,
    frame: Grid,
    *,
    device: str,
    source: str,
    layer: str | None = None,
) -> MarkedNetwork:
    """A network with its last cells.

    Args:
        module: torch's, placed on the device; its weights are frozen here.
        outputs: its outputs.
        example: one model input `(1, ...)`.
        frame: where that lies on the picture.
        device: `cpu` or `cuda`.
        source: for messages.
        layer: the module whose map it is, where the last one is not behind all outputs.

    Raises:
        EncoderError: where they are not found.
    """
    import torch

    module.requires_grad_(False)
    with torch.no_grad():
        calls, patch = _calls(module, lambda: outputs(module, torch.tensor(example).to(device)))
    calls = [call for call in calls if layer in (None, call.name)]
    blocks, maps = [call for call in calls if call.is_block], [call for call in calls if call.is_map]
    if blocks:
        last = blocks[-1]
        cells: tuple[int, ...] = patch[0] if patch is not None else (0, 0)
        before = last.given[1] - cells[0] * cells[1]
        if patch is None or last.given[0] != 1 or not 0 <= before <= _MOST_BEFORE:
            raise EncoderError(f"{source}: where its tokens lie on the picture is not known")
        sides = example.shape[-2], example.shape[-1]
        grid = Grid(frame.fit, covered(frame, sides, cells, patch[1]).box)
        words = "the patches that go into it"
    elif maps:
        last, before, grid, words = maps[-1], None, frame, "as it is pooled"
        cells = last.gave[1:3] if _channels_last(last.gave) else last.gave[2:]
    else:
        raise EncoderError(f"{source}: has neither a map nor patches in a row")

    def run(batch: np.ndarray, mark: Mark) -> dict[str, Any]:
        with _marked(module.get_submodule(last.name), mark, before, (cells[0], cells[1]), _channels_last(last.gave)):
            return outputs(module, torch.tensor(batch).to(device))

    return MarkedNetwork(layer=last.name, words=words, shape=(cells[0], cells[1]), grid=grid, run=run)


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a square map has its channels last."""
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def _calls(
    module: Any, run: Callable[[], object]
) -> tuple[list[_Call], tuple[tuple[int, int], tuple[int, int]] | None]:
    """The calls of all modules, as they end; cells and sides of the patches where the network begins with some."""
    import torch

    calls: list[_Call] = []
    patches: list[tuple[tuple[int, int], tuple[int, int]]] = []

    def noting(name: str) -> Callable[..., None]:
        def note(part: Any, args: Any, kwargs: Any, found: Any) -> None:
            given, gave = _first(args, kwargs), _first(found if isinstance(found, tuple | list) else (found,), {})
            if given is None or gave is None or isinstance(part, torch.nn.Identity):
                return
            calls.append(_Call(name, tuple(given.shape), tuple(gave.shape)))
            if isinstance(part, torch.nn.Conv2d) and part.kernel_size == part.stride and not patches:
                patches.append((tuple(gave.shape[2:]), part.kernel_size))

        return note

    hooks = [
        part.register_forward_hook(noting(name), with_kwargs=True) for name, part in module.named_modules() if name
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls, patches[0] if patches else None


def _first(args: Any, kwargs: Any) -> Any:
    """The first tensor among arguments."""
    import torch

    return next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)


@contextmanager
def _marked(part: Any, mark: Mark, before: int | None, cells: tuple[int, int], last: bool) -> Iterator[None]:
    """Inside, a module's map is marked as it leaves it, or the tokens behind the first so many as they enter it."""
    import torch

    def of_map(_module: Any, _args: Any, found: Any) -> Any:
        return mark(found.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if last else mark(found)

    def of_tokens(_module: Any, args: Any, kwargs: Any) -> Any:
        tokens = _first(args, kwargs)  # (1, before + H * W, D)
        placed = mark(tokens[:, before:].transpose(1, 2).unflatten(2, cells))  # (B, D, H, W)
        other = tokens[:, :before].expand(len(placed), -1, -1)
        found = torch.cat([other, placed.flatten(2).transpose(1, 2)], dim=1)
        return tuple(found if value is tokens else value for value in args), {
            name: found if value is tokens else value for name, value in kwargs.items()
        }

    if before is None:
        hook = part.register_forward_hook(of_map)
    else:
        hook = part.register_forward_pre_hook(of_tokens, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
