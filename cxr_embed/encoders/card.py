"""A row of the encoder table."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

from cxr_embed.encoders.hub import HubModel, cached_folder
from cxr_embed.encoders.seen import Seen
from cxr_embed.encoders.tensorflow_process import PYTHON_VARIABLE
from cxr_embed.encoders.weights import converted_folder, weights_path


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """A row of the encoder table.

    Attributes:
        name: what a user types; `PREFIX:NAME` where the name goes on.
        module: the module that makes it.
        outputs: name to shape of one image's vector; empty where the checkpoint decides.
        licence: of the weights (or of the code where there are none).
        terms: what that licence binds a user to, in a line that every run says; blank where it asks for a notice alone.
        framework: what runs it. `engines`: OpenVINO on a CPU, torch on a GPU; `torch`: the same for its image
            tower, where that was proven, and torch for the rest.
        extra: what to install for it, `pip install 'cxr-embed[EXTRA]'`; empty for the core.
        needs: the importable modules that running it takes.
        has_weights: False for a computed descriptor.
        bundled: whether its weights come with this package.
        hub: where its weights are published, for an encoder whose weights the Hub holds.
        converted: whether a part of what the Hub holds is first converted (`weights convert`).
        trained_on: the data behind the weights: results on the same data are not a clean test.
        saw: the same for programs: public data sets, how they were learned from, and where that is said.
        text: whether it embeds prompts.
        default_outputs: the outputs that are stored unless others are chosen; all where empty.
        on_request: of a family, the outputs that some of its checkpoints have besides; stored where they are named.
        pixels: its pixel recipes, the default first; empty where there is one only.
        batch_size: images at once on a CPU and on a GPU.
        frontal: whether it is known to have learned from frontal radiographs alone.
    """

    name: str
    module: str
    outputs: dict[str, tuple[int, ...]]
    licence: str
    framework: Literal["numpy", "engines", "torch", "tensorflow"]
    terms: str = ""
    extra: str = ""
    needs: tuple[str, ...] = ("openvino",)
    has_weights: bool = True
    bundled: bool = False
    hub: HubModel | None = None
    converted: bool = False
    trained_on: str = ""
    saw: tuple[Seen, ...] = ()
    text: bool = False
    default_outputs: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    pixels: tuple[str, ...] = ()
    batch_size: tuple[int, int] = (2, 64)
    frontal: bool = False

    @property
    def has_choice(self) -> bool:
        """Whether outputs can be chosen."""
        return len(self.outputs) > 1 or bool(self.on_request)

    @property
    def gated(self) -> bool:
        """Whether terms must be accepted before the weights can be had."""
        return self.hub is not None and self.hub.gated

    @property
    def installed(self) -> bool:
        """Whether everything that it needs can be imported here."""
        return not self.missing

    @property
    def missing(self) -> list[str]:
        """The modules that it needs and that cannot be imported here."""
        elsewhere = ("tensorflow", "tensorflow_text") if os.environ.get(PYTHON_VARIABLE) else ()
        return [m for m in self.needs if m not in elsewhere and importlib.util.find_spec(m) is None]

    @property
    def is_family(self) -> bool:
        """Whether the name is a prefix that a checkpoint's name follows."""
        return ":" in self.name

    @property
    def weights_here(self) -> bool | None:
        """Whether its weights lie on this machine; None where it has none, or where the checkpoint is not named."""
        if not self.has_weights or self.is_family:
            return None
        if self.bundled:
            return True
        if self.hub is not None:
            made = not self.converted or weights_path(self.name).is_file()
            return made and cached_folder(self.hub) is not None
        return weights_path(self.name).is_file() or converted_folder(self.name).is_dir()

    @property
    def one_model_a_machine(self) -> bool:
        """Whether one process infers and others decode for it, on a CPU too: large models are not loaded twice."""
        return self.framework in ("torch", "tensorflow")
