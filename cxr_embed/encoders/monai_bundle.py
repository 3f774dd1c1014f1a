"""A MONAI bundle's folder read as data: which network, which weights, what its answers are called.

MONAI's own parser imports whatever `_target_` names and evaluates expressions, so it is never used. Here a network is
one of a list, with plain arguments; anything else is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from cxr_embed.encoders.checkpoint import read_json
from cxr_embed.encoders.weights import read_pickle
from cxr_embed.errors import EncoderError

# What runs here, of monai.networks.nets, and each one's last layer, from features to answers.
NETWORKS = {
    **dict.fromkeys(("DenseNet", "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264"), "class_layers.out"),
    **dict.fromkeys(("ResNet", "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), "fc"),
    **dict.fromkeys(("SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50"), "last_linear"),
    "EfficientNetBN": "_fc",
}
_NETS = "monai.networks.nets"
_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
_WEIGHTS = ("model.safetensors", "model.pt")
_INSIDE = ("", "model.", "state_dict.", "network.", "net.")  # what a checkpoint may hold its network in
_MARKS = {"$": "an expression", "@": "a reference", "%": "a macro"}


@dataclass(frozen=True)
class Network:
    """A network of the list.

    Attributes:
        name: its class in monai.networks.nets.
        arguments: by keyword, all of them plain.
    """

    name: str
    arguments: Mapping[str, Any]

    @property
    def head(self) -> str:
        """Its last layer."""
        return NETWORKS[self.name]

    @property
    def channels(self) -> int:
        """How many channels its pictures have."""
        return int(self.arguments.get("in_channels", self.arguments.get("n_input_channels", 3)))


@dataclass(frozen=True)
class Bundle:
    """A folder as MONAI's `init_bundle` lays it out.

    Attributes:
        folder: with `configs` and `models`.
    """

    folder: Path

    @cached_property
    def config_file(self) -> Path:
        """The inference configuration.

        Raises:
            EncoderError: where there is none.
        """
        return self._first("configs", _CONFIGS)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its values, as they stand there.

        Raises:
            EncoderError: where it cannot be read.
        """
        if self.config_file.suffix == ".json":
            return read_json(self.config_file)
        try:
            value = yaml.safe_load(self.config_file.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise EncoderError(f"{self.config_file}: not readable as YAML ({reason})") from None
        if not isinstance(value, dict):
            raise EncoderError(f"{self.config_file}: not a mapping")
        return value

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What the bundle says of itself; nothing where it says nothing."""
        path = self.folder / "configs" / "metadata.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def weights_file(self) -> Path:
        """The weights: safetensors before a pickle.

        Raises:
            EncoderError: where there are none.
        """
        return self._first("models", _WEIGHTS)

    @cached_property
    def network(self) -> Network:
        """Its network.

        Raises:
            EncoderError: where it is none of the list, or its arguments are not plain.
        """
        return _network(self.config.get("network_def"), f"{self.config_file}: network_def")

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """The weights' file, by the network's names. Nothing in a pickle is run.

        Raises:
            EncoderError: where it cannot be read, or has not the network's last layer.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.weights_file
        if path.suffix == ".pt":
            found = read_pickle(path)
        else:
            try:
                found = load_file(path)
            except (SafetensorError, OSError, KeyError, TypeError) as error:  # numpy has no bfloat16
                raise EncoderError(f"{path}: not a safetensors file that NumPy reads ({error})") from None
        last = f"{self.network.head}.weight"
        inside = next((prefix for prefix in _INSIDE if prefix + last in found), None)
        if inside is None or found[inside + last].ndim != 2:
            seen = ", ".join(list(found)[:3]) or "none"
            raise EncoderError(f"{path}: has no {last} of a {self.network.name}; its tensors are {seen}, ...")
        named = {name.removeprefix(inside): value for name, value in found.items() if name.startswith(inside)}
        return {name: value for name, value in named.items() if not name.endswith("num_batches_tracked")}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What its classifier answers on, by `channel_def` of its metadata.

        Raises:
            EncoderError: where that names other classes than the network has.
        """
        outputs = _mapping(_mapping(self.metadata.get("network_data_format")).get("outputs"))
        named: dict[str, Any] = next(
            filter(None, (_mapping(_mapping(out).get("channel_def")) for out in outputs.values())), {}
        )
        count = len(self.tensors[f"{self.network.head}.weight"])
        names = tuple(str(named.get(str(number), "")).strip() for number in range(count))
        if (
            len(named) != count
            or not all(names)
            or len(set(names)) < count
            or (self.activation, count) == ("softmax", 1)
        ):
            raise EncoderError(
                f"{self.folder}: no `outputs` scores, since configs/metadata.json does not name its {count} classes "
                "(network_data_format, outputs, pred, channel_def), each once, from 0 on; a softmax takes two or more"
            )
        return names

    @cached_property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """What makes probabilities of its answers, by its postprocessing.

        Raises:
            EncoderError: where that does not say it.
        """
        post = self.config.get("postprocessing")
        steps = post.get("transforms") if isinstance(post, dict) else None
        for step in steps if isinstance(steps, list) else ():
            if isinstance(step, dict) and str(step.get("_target_")).rpartition(".")[2] in (
                "Activations",
                "Activationsd",
            ):
                if step.get("sigmoid") is True and not step.get("softmax"):
                    return "sigmoid"
                if step.get("softmax") is True and not step.get("sigmoid"):
                    return "softmax"
        raise EncoderError(
            f"{self.config_file}: no `outputs` scores: its postprocessing has no Activations of sigmoid or softmax"
        )

    def _first(self, part: str, names: tuple[str, ...]) -> Path:
        found = next((self.folder / part / name for name in names if (self.folder / part / name).is_file()), None)
        if found is None:
            raise EncoderError(f"{self.folder}: not a whole MONAI bundle, {part}/{' or '.join(names)} is missing")
        return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _network(value: Any, where: str) -> Network:
    """A `network_def`, read.

    Raises:
        EncoderError: where it is none of the list, or its arguments are not plain.
    """
    if not isinstance(value, dict) or not isinstance(value.get("_target_"), str):
        raise EncoderError(f"{where} does not name a network (`_target_`)")
    target = value["_target_"]
    require_plain(target, f"{where}, _target_")
    module, _, name = target.rpartition(".")
    if name not in NETWORKS or not (module in ("", _NETS) or module.startswith(f"{_NETS}.")):
        raise EncoderError(f"{where}: {target} is none of the networks that are run here: {', '.join(NETWORKS)}")
    arguments = {key: argument for key, argument in value.items() if key not in ("_target_", "_desc_")}
    for key, argument in arguments.items():
        if key.startswith("_"):
            raise EncoderError(f"{where}, {key}: only `_target_` and plain arguments are read")
        require_plain(argument, f"{where}, {key}")
    if arguments.pop("pretrained", False):
        raise EncoderError(f"{where}, pretrained: is not false; a bundle's weights are in its folder")
    if arguments.get("spatial_dims", 2 if name == "EfficientNetBN" else 3) != 2:
        raise EncoderError(f"{where}, spatial_dims: is not 2; radiographs are flat")
    if arguments.get("feed_forward", True) is not True:
        raise EncoderError(f"{where}, feed_forward: a network without its last layer is not run here")
    return Network(name, arguments)


def require_plain(value: Any, where: str) -> None:
    """Sees that a value of a configuration is numbers, words, lists and mappings of them.

    Raises:
        EncoderError: for whatever MONAI's parser would evaluate, look up or make.
    """
    if isinstance(value, str):
        mark = next((mark for mark in _MARKS if mark in value), None)
        if mark is not None:
            raise EncoderError(f"{where}: {value[:60]!r} is {_MARKS[mark]}; only plain values are read")
    elif isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str) or key.startswith("_"):
                raise EncoderError(f"{where}: {str(key)[:60]!r} would make an object; only plain values are read")
            require_plain(key, where)
            require_plain(part, where)
    elif isinstance(value, list):
        for part in value:
            require_plain(part, where)
    elif value is not None and not isinstance(value, bool | int | float):
        raise EncoderError(f"{where}: {json.dumps(str(value))} is not a plain value")
