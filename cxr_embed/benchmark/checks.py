"""What is wrong with a plan, said before anything is embedded; and which cells it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_embed.benchmark.cells import prompt_source
from cxr_embed.benchmark.data import PHANTOMS, BenchData, learnable, read_data
from cxr_embed.benchmark.plan import EncoderPlan, Plan, Task, near_name, refuse
from cxr_embed.benchmark.progress import Clock, plan_work
from cxr_embed.benchmark.shortcuts import attribute_labels
from cxr_embed.benchmark.tasks import OF_VECTORS
from cxr_embed.benchmark.vectors import RANDOM, BenchEncoder, Stores, random_file, reason_of
from cxr_embed.cases import match_names
from cxr_embed.datasets import recipe_names
from cxr_embed.encoders import encoder_card
from cxr_embed.encoders.registry import ENCODERS, is_own
from cxr_embed.encoders.seen import Seen, words_on
from cxr_embed.errors import CxrEmbedError, EncoderError
from cxr_embed.evaluation import read_scores
from cxr_embed.prompts import load_prompt_set
from cxr_embed.types import EncoderSpec


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A plan that can be followed.

    Attributes:
        plan: as it was read.
        folder: that its paths are relative to.
        out: where everything goes.
        encoders, data: by name.
        specs: what each encoder computes; none for one that is left out, or of which there are scores alone.
        impossible: data set, encoder and task to the reason why there is no such cell.
    """

    plan: Plan
    folder: Path
    out: Path
    encoders: Mapping[str, BenchEncoder]
    data: Mapping[str, BenchData]
    specs: Mapping[str, EncoderSpec]
    impossible: Mapping[tuple[str, str, Task], str]

    def tasks(self, data: str, encoder: str) -> tuple[Task, ...]:
        """What is wanted of an encoder on a data set."""
        chosen = [self.plan.data[data].tasks, self.plan.encoders[encoder].tasks]
        return tuple(task for task in self.plan.tasks.names if all(named is None or task in named for named in chosen))

    def saw(self, data: str, encoder: str) -> str:
        """How the encoder learned from the data set, in words; blank where nothing of the kind is known."""
        return saw_data(self.encoders[encoder], self.data[data].recipe, self.specs.get(encoder))

    def stand_in(self, encoder: str) -> str:
        """What its weights stand in for, in words."""
        spec = self.specs.get(encoder)
        return self.plan.encoders[encoder].stand_in or (spec.stand_in if spec is not None else "")


def saw_data(encoder: BenchEncoder, recipe: str, spec: EncoderSpec | None) -> str:
    """How an encoder learned from a data set, by the plan and by what is known of it."""
    if not recipe:
        return ""
    if recipe in encoder.plan.saw:
        return encoder.plan.saw[recipe]
    # What the plan says of a data set holds for those that are made of its radiographs as well.
    seen = tuple(Seen(data, how, "the plan") for data, how in encoder.plan.saw.items())
    if encoder.encoder and not is_own(encoder.encoder) and not (spec is not None and spec.untrained):
        seen += encoder_card(encoder.encoder).saw
    return words_on(seen, recipe)


def prepare(plan: Plan, folder: Path, out: Path, source: str, clock: Clock) -> Bench:
    """Looks at everything that a plan names, and says all that is wrong with it at once.

    Raises:
        PlanError: with every fault.
    """
    problems = _names(plan)
    encoders: dict[str, BenchEncoder] = {}
    for name, entry in plan.encoders.items():
        try:
            encoders[name] = _encoder(name, entry, folder, out, plan.seed)
        except CxrEmbedError as error:
            problems.append(f"encoders.{name}: {reason_of(error)}")
    refuse(source, problems)
    clock.expect(plan_work(plan))
    data, problems = read_data(plan, folder, out, clock)
    refuse(source, problems)
    by_name = {found.name: found for found in data}
    problems = [*_unlabelled(plan, by_name, folder), *_nowhere(plan, by_name)]
    refuse(source, problems)
    specs: dict[str, EncoderSpec] = {}
    for name, encoder in encoders.items():
        if not encoder.encoder or encoder.absent:
            continue
        clock.at(f"{name}: looking at the encoder")
        try:
            specs[name] = Stores(out).spec(encoder)
        except CxrEmbedError as error:
            if encoder.plan.optional and isinstance(error, EncoderError):
                encoders[name] = replace(encoder, absent=reason_of(error))
                continue
            problems.append(f"encoders.{name}: {reason_of(error)} (`optional: true` leaves it out)")
    bench = Bench(plan=plan, folder=folder, out=out, encoders=encoders, data=by_name, specs=specs, impossible={})
    impossible, more = _impossible(bench)
    refuse(source, [*problems, *more])
    return replace(bench, impossible=impossible)


def _names(plan: Plan) -> list[str]:
    """Names in one place of the plan that are not there in another."""
    problems = [] if plan.tasks.names else ["tasks: is empty; name at least one"]
    if plan.reference and plan.reference not in plan.encoders:
        hint = near_name(plan.reference, plan.encoders)
        problems.append(f"reference: no encoder is named {plan.reference!r}; {hint}")
    problems += [*_alike("encoders", plan.encoders), *_alike("data", plan.data)]
    problems += [
        f"encoders.{name}.scores: scores is not among the plan's tasks; name it there"
        for name, entry in plan.encoders.items()
        if entry.scores and "scores" not in plan.tasks.names
    ]
    entries = [("encoders", name, entry.tasks) for name, entry in plan.encoders.items()]
    entries += [("data", name, entry.tasks) for name, entry in plan.data.items()]
    for where, name, tasks in entries:
        lacking = [task for task in tasks or () if task not in plan.tasks.names]
        problems += [f"{where}.{name}.tasks: {task} is not among the plan's tasks; name it there" for task in lacking]
    named = [(f"encoders.{name}.scores", entry.scores) for name, entry in plan.encoders.items()]
    prompts = plan.tasks.prompts
    if prompts is not None and not isinstance(prompts.prompts, str):
        named.append(("tasks.prompts.prompts", prompts.prompts))
    for where, by_data in named:
        unknown = [data for data in by_data if data not in plan.data]
        problems += [f"{where}: no data set is named {data!r}; {near_name(data, plan.data)}" for data in unknown]
    return problems


def _alike(where: str, names: Iterable[str]) -> list[str]:
    """Names that are one folder where the file system knows no case."""
    first: dict[str, str] = {}
    others = [(first.setdefault(name.casefold(), name), name) for name in names]
    return [f"{where}.{name}: differs from {one} in case alone" for one, name in others if one != name]


def _nowhere(plan: Plan, data: Mapping[str, BenchData]) -> list[str]:
    """Names that no data set has: a slip of the pen must not leave out a column or a mark."""
    problems = []
    shortcuts = plan.tasks.shortcuts
    if shortcuts is not None and "by" in shortcuts.model_fields_set:
        known = {name for found in data.values() for name in found.table.table.column_names}
        lacking = [name for name in shortcuts.by if name not in known]
        problems += [
            f"tasks.shortcuts.by: no data set has a column {n}; {near_name(n, sorted(known))}" for n in lacking
        ]
    saw = {recipe: name for name, entry in plan.encoders.items() for recipe in entry.saw}
    recipes = {*recipe_names(), PHANTOMS, *(seen.data for card in ENCODERS.values() for seen in card.saw)}
    for name, found in data.items():
        own = found.plan.recipe
        if own and own not in recipes and own not in saw:
            hint = near_name(own, sorted(recipes))
            problems.append(f"data.{name}.recipe: no recipe and no encoder's `saw` is named {own!r}; {hint}")
    recipes |= {found.recipe for found in data.values() if found.recipe}
    problems += [
        f"encoders.{name}.saw: no recipe and no data set's is named {recipe!r}; {near_name(recipe, sorted(recipes))}"
        for recipe, name in saw.items()
        if recipe not in recipes
    ]
    return problems


def _encoder(name: str, plan: EncoderPlan, folder: Path, out: Path, seed: int) -> BenchEncoder:
    """An encoder of a plan, as far as no weights are opened for it.

    Raises:
        CxrEmbedError: for a name that is not known, or weights that are not there.
    """
    encoder = plan.encoder or (name if name in ENCODERS or ":" in name or not plan.scores else "")
    if encoder and not is_own(encoder):
        encoder_card(encoder)
    if plan.text_weights is not None and not (folder / plan.text_weights).exists():
        raise EncoderError(f"no weights at {plan.text_weights} (`text_weights`; paths are relative to the plan)")
    made = BenchEncoder(name=name, encoder=encoder, plan=plan, weights=None, folder=folder)
    if plan.weights == RANDOM:
        return replace(made, weights=random_file(encoder, out, seed))
    if plan.weights is None:
        return made
    weights = folder / plan.weights
    if not weights.exists():
        why = f"no weights at {plan.weights}"
        if plan.optional:
            return replace(made, absent=why)
        raise EncoderError(f"{why} (paths are relative to the plan); `optional: true` leaves the encoder out")
    return replace(made, weights=weights)


def _unlabelled(plan: Plan, data: Mapping[str, BenchData], folder: Path) -> list[str]:
    """Tasks for which a data set has no labels; a data set's own `tasks` leave them out."""
    problems = []
    for name, found in data.items():
        for task in plan.tasks.names:
            wanted = plan.data[name].tasks
            if (wanted is None or task in wanted) and (why := _lacking(plan, found, task, folder)):
                problems.append(f"data.{name}: {why}, which the task {task} needs; name its own `tasks` without it")
    return problems


def _lacking(plan: Plan, data: BenchData, task: Task, folder: Path) -> str:
    """What a data set lacks for a task; blank where nothing."""
    if task == "speed":
        return ""
    if task == "shortcuts":
        assert plan.tasks.shortcuts is not None
        labels, reasons = attribute_labels(data, plan.tasks.shortcuts.by, plan.tasks.shortcuts.fewest)
        return "" if labels.table.findings else f"no column tells two kinds apart ({'; '.join(reasons.values())})"
    if not data.table.findings:
        return "no labels of findings"
    parts = (data.test,) if task in ("prompts", "scores") else (data.train, data.test)
    if not learnable(data, parts):
        return f"no finding with a 1 and a 0 in {' and in '.join(parts)}"
    if task != "prompts":
        return ""
    assert plan.tasks.prompts is not None
    chosen = plan.tasks.prompts.of(data.name)
    if chosen is None:
        return "no prompt set (tasks.prompts.prompts)"
    try:
        prompts = load_prompt_set(prompt_source(chosen, folder))
        matched = match_names([finding.name for finding in prompts.findings], data.table.findings, "prompts")
    except CxrEmbedError as error:
        return reason_of(error)
    named = ", ".join(data.table.findings)
    return "" if any(matched) else f"none of its findings ({named}) is in the prompt set {chosen}"


def _impossible(bench: Bench) -> tuple[dict[tuple[str, str, Task], str], list[str]]:
    """Cells that cannot be, with their reasons; and what is wrong where such a cell is asked for by name."""
    impossible: dict[tuple[str, str, Task], str] = {}
    problems = []
    for name, encoder in bench.encoders.items():
        problems += _outputs(bench, name)
        for data in bench.data:
            for task in bench.tasks(data, name):
                why = encoder.absent or _unfit(bench, encoder, data, task)
                if not why:
                    continue
                impossible[data, name, task] = why
                # Scores are of the data sets that they are named for; without any, the task was named for nothing.
                named = task in (encoder.plan.tasks or ())
                wanted = data in encoder.plan.scores or (named and not encoder.plan.scores)
                if (wanted if task == "scores" else named) and not encoder.absent:
                    problems.append(f"encoders.{name}.tasks: {task} on {data} is not possible: {why}")
    problems += _done_by_nobody(bench, impossible) if not problems else []
    return impossible, list(dict.fromkeys(problems))


def _done_by_nobody(bench: Bench, impossible: Mapping[tuple[str, str, Task], str]) -> list[str]:
    """Tasks that no encoder can do on any data set, though all encoders are here."""
    problems = []
    absent = any(encoder.absent for encoder in bench.encoders.values())
    for task in bench.plan.tasks.names if not absent else ():
        cells = [(d, e, task) for d in bench.data for e in bench.encoders if task in bench.tasks(d, e)]
        if not cells:
            problems.append(f"tasks.{task}: no encoder and data set have it among their `tasks`")
        elif all(cell in impossible for cell in cells):
            reasons = "; ".join(dict.fromkeys(impossible[cell] for cell in cells))
            problems.append(f"tasks.{task}: no encoder here can do it: {reasons}")
    return problems


def _unfit(bench: Bench, encoder: BenchEncoder, data: str, task: Task) -> str:
    """Why an encoder cannot do a task; blank where it can."""
    if task == "scores":
        file = encoder.plan.scores.get(data)
        if file is None:
            return _unanswered(bench, encoder, data)
        return _unreadable(bench, encoder.folder / file, data)
    if not encoder.encoder:
        return "there are scores of it alone, no vectors"
    if task == "prompts":
        spec = bench.specs.get(encoder.name)
        if spec is None or spec.text is None:
            return f"{encoder.name} embeds no prompts"
    return ""


def _unanswered(bench: Bench, encoder: BenchEncoder, data: str) -> str:
    """Why an encoder stores no scores of its own for a data set; blank where it does."""
    spec = bench.specs.get(encoder.name)
    rule = spec.classes if spec is not None else None
    if rule is None:
        return "no scores of its own are named, or among its outputs"
    matched = match_names(rule.names, bench.data[data].table.findings, "scores")
    return "" if any(matched) else f"{encoder.name} answers none of the findings"


def _unreadable(bench: Bench, file: Path, data: str) -> str:
    """Why scores cannot be evaluated on a data set; blank where they can."""
    try:
        given = read_scores(file)
        found = bench.data[data]
        if not any(match_names(given.names, found.table.findings, "scores")):
            return f"{file.name} has none of the findings"
        tested = set(found.table.ids[found.part(found.test)].tolist())
        return "" if tested.intersection(given.ids.tolist()) else f"{file.name} has none of the test images"
    except (CxrEmbedError, OSError) as error:
        return reason_of(error)


def _outputs(bench: Bench, name: str) -> list[str]:
    """Outputs of a plan that the encoder does not have."""
    spec, plan = bench.specs.get(name), bench.plan.encoders[name]
    if spec is None:
        return []
    named = [("output", plan.output), ("search_output", plan.search_output)]
    return [
        f"encoders.{name}.{key}: {spec.name} has no output {output!r}; {near_name(output, spec.outputs)}"
        for key, output in named
        if output is not None and output not in spec.outputs
    ]


def needs_vectors(encoder: BenchEncoder, data: str, tasks: Sequence[Task]) -> bool:
    """Whether any of these tasks reads what is stored; own scores do where no file of them is named."""
    return any(task in OF_VECTORS or (task == "scores" and data not in encoder.plan.scores) for task in tasks)
