"""What a plan of a benchmark may say: encoders, data sets, tasks, and what they share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from cxr_embed.choices import (
    Balance,
    Blank,
    Dtype,
    Ensemble,
    Pooling,
    PrecisionChoice,
    Preparation,
    ScoreKind,
    Uncertain,
)
from cxr_embed.errors import CxrEmbedError
from cxr_embed.prompts import LARGEST_YAML, load_yaml

Task = Literal["probe", "curve", "prompts", "neighbours", "shortcuts", "scores", "speed"]
TASKS: tuple[Task, ...] = ("probe", "curve", "prompts", "neighbours", "shortcuts", "scores", "speed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,62}[A-Za-z0-9+]|[A-Za-z0-9]")
_SHAPES = {
    "missing": "is missing",
    "too_short": "is empty",
    "string_type": "must be text",
    "list_type": "must be a list, e.g. [probe, curve]",
    "dict_type": "must map names to values",
    "model_type": "must map keys to values",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "int_from_float": "must be a whole number",
    "string_too_short": "is empty",
}
_BOUNDS = {
    "greater_than": "must be above {:g}",
    "greater_than_equal": "must be {:g} or more",
    "less_than": "must be below {:g}",
    "less_than_equal": "must be {:,} or less",
}
_BRANCHES = ("[key]", "constrained-int", "int")  # pydantic's words for one of several types


class PlanError(CxrEmbedError):
    """A plan that cannot be followed. `problems` holds every fault that was found, one line each."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


def refuse(source: str, problems: Sequence[str], what: str = "cannot be followed") -> None:
    """Raises PlanError where there are problems; nothing else."""
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise PlanError(f"{source}: {what}\n{listed}", tuple(problems))


def near_name(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is meant."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name becomes a folder: letters, digits, spaces and . _ + - within, up to 64")
    return name


def _of_word(value: Any) -> Any:
    """A word for a list of it."""
    return [value] if isinstance(value, str | int) else value


def _of_nothing(value: Any) -> Any:
    """Nothing (`probe:`) for no options."""
    return {} if value is None else value


Name = Annotated[str, pydantic.AfterValidator(_plain_name)]
Count = Annotated[int, pydantic.Field(ge=1)]
Seed = Annotated[int, pydantic.Field(ge=0, le=2**32 - 1)]  # what every generator of random numbers takes
Names = Annotated[list[str], pydantic.Field(min_length=1), pydantic.BeforeValidator(_of_word)]
TaskNames = Annotated[list[Task], pydantic.Field(min_length=1), pydantic.BeforeValidator(_of_word)]
Counts = Annotated[list[Count], pydantic.Field(min_length=1), pydantic.BeforeValidator(_of_word)]
Shots = Annotated[list[Count | Literal["all"]], pydantic.Field(min_length=1), pydantic.BeforeValidator(_of_word)]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class EncoderPlan(_Part):
    """An encoder, or a model of which there are scores alone.

    Attributes:
        encoder: a name from `cxr-embed encoders`, or package.module:function; the entry's own name by default.
        weights: a safetensors file or a checkpoint's folder; `random` for random numbers, which the results say.
        output, pool: what probes, curves and shortcuts learn from: one of the encoder's outputs, and how tokens become
            one vector.
        search_output: what neighbours are found by.
        outputs, pixels, prepare, device, precision, dtype, batch_size, workers: as `cxr_embed.embed` takes them.
        text_weights: of the text model, for prompts; those of the encoder by default.
        scores: data set to a file of the model's own scores; what its output of scores holds by default.
        stand_in: what these weights stand in for, in words, where they do not say so themselves.
        saw: data set's recipe to how the encoder learned from it, in words; beside what is known of the encoder.
        tasks: only these; what is named here must be possible.
        optional: whether it is left out, with the reason, where its weights or packages are not here.
    """

    encoder: str = ""
    weights: str | None = None
    output: str | None = None
    pool: Pooling = "mean"
    search_output: str | None = None
    outputs: Names | None = None
    pixels: str | None = None
    prepare: Preparation | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: PrecisionChoice = "auto"
    dtype: Dtype | None = None
    batch_size: Count | Literal["auto"] = "auto"
    workers: Count | Literal["auto"] = "auto"
    text_weights: str | None = None
    scores: dict[str, str] = {}
    stand_in: str = ""
    saw: dict[str, str] = {}
    tasks: TaskNames | None = None
    optional: bool = False


class DataPlan(_Part):
    """A data set: a manifest, or phantoms that are drawn on the spot.

    Attributes:
        manifest, root, extra: as `cxr_embed.embed` takes them; paths are relative to the plan.
        recipe: of which data set the images are, by the name of its recipe: encoders that learned from it are marked.
        findings: of the labels, or `common`; the plan's by default.
        train, test: names of its splits. A manifest without a column `split` is split by patient.
        uncertain, blank: what a label of -1 and a blank one count as; `blank` by default as the companion says.
        phantoms, size, seed, format: how many are drawn, and how, as `cxr-embed phantom` takes it.
        tasks: only these.
    """

    manifest: str | None = None
    root: str | None = None
    extra: Annotated[list[str], pydantic.BeforeValidator(_of_word)] = []
    recipe: str = ""
    findings: Names | None = None
    train: str = "train"
    test: str = "test"
    uncertain: Uncertain = "unknown"
    blank: Blank | None = None
    phantoms: Count | None = None
    size: Annotated[int, pydantic.Field(ge=64, le=2048)] = 512
    seed: Seed = 0
    format: Literal["png", "dicom"] = "png"
    tasks: TaskNames | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> DataPlan:
        if (self.manifest is None) == (self.phantoms is None):
            raise ValueError("a data set is a manifest or a number of phantoms, one of the two")
        if self.train == self.test:
            raise ValueError("train and test are two splits")
        return self


class ProbeTask(_Part):
    """A probe of all labels of the training part; the options are those of `cxr_embed.train_probe`."""

    kind: Literal["linear", "mlp", "knn"] = "linear"
    balance: Balance = "none"
    C: Annotated[float, pydantic.Field(gt=0)] | None = None


class CurveTask(_Part):
    """A few-label curve: `shots` and `seeds` as `cxr_embed.few_label_curve` takes them."""

    shots: Shots = [1, 4, 16, 64, "all"]
    seeds: Count = 10


class PromptsTask(_Part):
    """Prompts: a set's name or file, for all data sets or by data set; other options as `cxr_embed.screen` has them."""

    prompts: str | dict[str, str] = "nih14"
    score: ScoreKind | None = None
    ensemble: Ensemble = "scores"
    cut_prompts: bool = False

    def of(self, data: str) -> str | None:
        """The set for a data set; None where there is none."""
        return self.prompts if isinstance(self.prompts, str) else self.prompts.get(data)


class NeighboursTask(_Part):
    """Neighbours of the test images among the training images: `k` as `cxr_embed.evaluate_index` takes it."""

    k: Counts = [5, 10]


class ShortcutsTask(_Part):
    """What else the vectors tell: columns of the labels, and how many patients of a kind that takes on each side."""

    by: Names = ["sex", "age", "view", "site", "source"]
    fewest: Annotated[int, pydantic.Field(ge=2)] = 10


class ScoresTask(_Part):
    """A model's own scores, which the encoders name."""


class SpeedTask(_Part):
    """Images a second: the first so many images, on each device."""

    images: Annotated[int, pydantic.Field(ge=2)] = 256
    device: Annotated[list[Literal["cpu", "cuda"]], pydantic.BeforeValidator(_of_word)] = ["cpu", "cuda"]


_OF_TASKS: dict[str, type[_Part]] = {
    "probe": ProbeTask,
    "curve": CurveTask,
    "prompts": PromptsTask,
    "neighbours": NeighboursTask,
    "shortcuts": ShortcutsTask,
    "scores": ScoresTask,
    "speed": SpeedTask,
}
_Probe = Annotated[ProbeTask | None, pydantic.BeforeValidator(_of_nothing)]
_Curve = Annotated[CurveTask | None, pydantic.BeforeValidator(_of_nothing)]
_Prompts = Annotated[PromptsTask | None, pydantic.BeforeValidator(_of_nothing)]
_Neighbours = Annotated[NeighboursTask | None, pydantic.BeforeValidator(_of_nothing)]
_Shortcuts = Annotated[ShortcutsTask | None, pydantic.BeforeValidator(_of_nothing)]
_Scores = Annotated[ScoresTask | None, pydantic.BeforeValidator(_of_nothing)]
_Speed = Annotated[SpeedTask | None, pydantic.BeforeValidator(_of_nothing)]


class Tasks(_Part):
    """What is done with each encoder on each data set; None where it is not."""

    probe: _Probe = None
    curve: _Curve = None
    prompts: _Prompts = None
    neighbours: _Neighbours = None
    shortcuts: _Shortcuts = None
    scores: _Scores = None
    speed: _Speed = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_list(cls, value: Any) -> Any:
        if isinstance(value, str | list):
            return {name: {} for name in ([value] if isinstance(value, str) else value) if isinstance(name, str)}
        return value

    @property
    def names(self) -> tuple[Task, ...]:
        """Those that are wanted, in the order of `TASKS`."""
        return tuple(name for name in TASKS if getattr(self, name) is not None)

    def settings(self, task: Task) -> dict[str, Any]:
        """The options of one, as plain JSON values."""
        found: dict[str, Any] = getattr(self, task).model_dump()
        return found


_Encoder = Annotated[EncoderPlan, pydantic.BeforeValidator(_of_nothing)]


class Plan(_Part):
    """A benchmark.

    Attributes:
        title: of the leaderboard.
        encoders: by the names that the results have.
        data: likewise.
        tasks: done with every encoder on every data set where that is possible.
        reference: the encoder that all others are compared with; the first by default.
        findings: that are looked at, in the data sets that have them; `common` for those of the vocabulary of findings,
            under its names; all by default.
        test_part: of the patients, in data sets that nobody has split.
        seed, bootstraps, count_no_finding: as `cxr_embed.evaluate` takes them; `seed` is also that of the splits.
        reports: whether each encoder gets a report on each data set.
    """

    title: str = "Leaderboard"
    encoders: Annotated[dict[Name, _Encoder], pydantic.Field(min_length=1)]
    data: Annotated[dict[Name, DataPlan], pydantic.Field(min_length=1)]
    tasks: Tasks
    reference: str = ""
    findings: Names | None = None
    test_part: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.3
    seed: Seed = 0
    bootstraps: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 1000
    count_no_finding: bool = False
    reports: bool = True

    @property
    def compared_with(self) -> str:
        """The name of the reference."""
        return self.reference or next(iter(self.encoders))


def read_plan(plan: str | Path | Mapping[str, Any]) -> tuple[Plan, Path, str]:
    """A plan from a YAML file or a dict; the folder that its paths are relative to; and its name, for messages.

    Raises:
        PlanError: for a file that cannot be read or is not a plan, with every fault in it.
    """
    if isinstance(plan, Mapping):
        return _validated(dict(plan), "plan"), Path(), "plan"
    path, source = Path(plan), str(plan)
    try:
        with open(path, "rb") as file:
            value = load_yaml(file.read(LARGEST_YAML + 1))
    except OSError as error:
        raise PlanError(f"{source}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PlanError(f"{source}: not YAML ({error.problem}{where})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PlanError(f"{source}: not YAML ({(str(error).splitlines() or [''])[0]})") from None
    return _validated(value, source), path.parent, source


def _validated(value: Any, source: str) -> Plan:
    try:
        return Plan.model_validate(value)
    except pydantic.ValidationError as error:
        faults: dict[str, str] = {}
        for place, what in map(_fault, error.errors()):  # a value of several types has a fault of each
            faults[place] = f"{faults[place]}, or {what}" if place in faults else what
        refuse(source, [f"{place}: {what}" if place else what for place, what in faults.items()], "not a plan")
        raise


def _fault(fault: Any) -> tuple[str, str]:
    """One of pydantic's faults, where and in words, with the nearest name where a name is unknown."""
    where = [str(part) for part in fault["loc"] if str(part) not in _BRANCHES and not str(part).startswith("literal[")]
    kind = fault["type"]
    if kind == "extra_forbidden":
        model = _model_at(where[:-1])
        word = "task" if model is Tasks else "key"
        what = f"unknown {word}; {near_name(where[-1], model.model_fields)}"
    elif kind == "literal_error" and where and where[-2:-1] == ["tasks"]:
        what = f"no task is named {fault['input']!r}; {near_name(str(fault['input']), TASKS)}"
    elif kind == "literal_error":
        what = f"is {fault['ctx']['expected']}, not {fault['input']!r}"
    elif kind in _BOUNDS:
        what = _BOUNDS[kind].format(next(iter(fault["ctx"].values())))
    else:
        what = _SHAPES.get(kind, fault["msg"].removeprefix("Value error, "))
    return ".".join(where), str(what)


def _model_at(where: Sequence[str]) -> type[_Part]:
    """The record that a place in a plan is of."""
    first = where[0] if where else ""
    if first == "tasks":
        return _OF_TASKS.get(where[1], Tasks) if len(where) > 1 else Tasks
    kinds: dict[str, type[_Part]] = {"encoders": EncoderPlan, "data": DataPlan}
    return kinds.get(first, Plan) if len(where) > 1 else Plan
