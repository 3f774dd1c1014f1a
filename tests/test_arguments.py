"""Arguments of functions for users: one wrong by its kind is named in a line, and one name stands for a list."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

import cxr_embed as cx
from cxr_embed import CxrEmbedError
from cxr_embed.arguments import checked_arguments


@checked_arguments
def _sample(
    path: str | os.PathLike[str] | None = None,
    *,
    findings: Sequence[str] | None = None,
    by: Sequence[str] = (),
    k: int = 3,
    seed: int = 0,
    share: float | None = None,
    colour: Literal["refuse", "grey"] = "refuse",
    files: Sequence[str | os.PathLike[str]] | None = None,
    shots: Sequence[int | Literal["all"]] | int | None = None,
    table: Any = None,
    unseen: NotThere = None,  # type: ignore[name-defined]  # noqa: F821
) -> dict[str, Any]:
    return locals()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "`path` is a path, not 3"),
        ({"findings": 3}, "`findings` is a list of names, not 3"),
        ({"findings": ["Edema", None]}, "`findings` is a list of names, not NoneType"),
        ({"findings": {"Edema": 1}}, "`findings` is a list of names, not dict"),
        ({"findings": []}, "`findings` is an empty list; leave it out for the default"),
        ({"k": "5"}, "`k` is a whole number, not '5'"),
        ({"k": 5.0}, "`k` is a whole number, not 5.0"),
        ({"k": True}, "`k` is a whole number, not True"),
        ({"seed": -1}, "`seed` is a whole number from 0, not -1"),
        ({"share": "0.1"}, "`share` is a number, not '0.1'"),
        ({"colour": "gray"}, "`colour` is refuse or grey, not 'gray'"),
        ({"colour": ["grey"]}, "`colour` is refuse or grey, not list"),
        ({"files": "a.png"}, "`files` is a list of files, not 'a.png'"),
        ({"files": [np.zeros(2)]}, "`files` is a list of files, not ndarray"),
        ({"shots": ["four"]}, "`shots` is a list of whole numbers or all or a whole number, not 'four'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CxrEmbedError) as caught:
        _sample(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ({"findings": "Edema"}, ["Edema"]),
        ({"findings": pd.Series(["Edema"])}, ["Edema"]),
        ({"findings": ("Edema",)}, ["Edema"]),
        ({"files": (name for name in ["a.png"])}, ["a.png"]),
        ({"by": None}, ()),
        ({"k": None}, 3),
        ({"k": np.int64(2)}, 2),
        ({"share": np.float32(0.5)}, 0.5),
        ({"path": Path("a")}, Path("a")),
        ({"shots": ["all", 4]}, ["all", 4]),
        ({"table": 3}, 3),
        ({"unseen": 3}, 3),
    ],
)
def test_arguments_that_fit_are_handed_on(arguments: dict[str, Any], taken: object) -> None:
    (name,) = arguments
    assert _sample(**arguments)[name] == taken


def test_a_number_of_numpys_is_given_as_pythons_own() -> None:
    taken = _sample(k=np.int64(2), share=np.float32(0.5), shots=np.array([4, 16]))  # type: ignore[arg-type]
    assert list(map(type, [taken["k"], taken["share"], *taken["shots"]])) == [int, float, int, int]


def test_a_missing_argument_is_said_in_pythons_words() -> None:
    with pytest.raises(TypeError, match=r"report\(\) missing 1 required keyword-only argument: 'out'"):
        cx.report("scores.csv", "labels.csv")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'tresh'"):
        _sample(tresh=1)  # type: ignore[call-arg]


_TABLE = {"image_id": ["a", "b"], "Edema": [1, 0]}
_SCORES = {"image_id": ["a", "b"], "Edema": [0.9, 0.2]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cx.embed("m.csv", encoder=object(), store="s"), "`encoder` is a name, or an object"),  # type: ignore[arg-type]
        (lambda: cx.embed_images(None), "`images` is a list of files or arrays, not NoneType"),  # type: ignore[arg-type]
        (lambda: cx.embed_images(["there", "nowhere.png"]), r"image 0 \(there\): the file does not exist"),
        (lambda: cx.open_store(None), "`path` is a path, not NoneType"),  # type: ignore[arg-type]
        (lambda: cx.train_probe(None, _TABLE), "`store` is an open store or its folder, not NoneType"),  # type: ignore[arg-type]
        (lambda: cx.screen("s", []), "no store here"),
        (lambda: cx.few_label_curve([], _TABLE), "`stores` are at least one"),
        (lambda: cx.evaluate_index([]), "`indexes` are at least one"),
        (lambda: cx.evaluate_index(3), "`indexes` are open indexes or their folders, not int"),  # type: ignore[arg-type]
        (lambda: cx.compare(None, _SCORES, _TABLE), "`first` is a path, a pandas"),
        (lambda: cx.evaluate(_SCORES, _TABLE, prevalence="0.1"), "`prevalence` is a part of 1"),  # type: ignore[arg-type]
        (lambda: cx.evaluate(_SCORES, _TABLE, threshold={"Edema": "youden"}), "`threshold` by finding is a number"),  # type: ignore[dict-item]
        (lambda: cx.evaluate(_SCORES, _TABLE, threshold={"Edema": np.nan}), "`threshold` by finding is a number"),
        (lambda: cx.evaluate(_SCORES, _TABLE, threshold=[0.5]), "`threshold` is youden, f1"),  # type: ignore[arg-type]
        (lambda: cx.evaluate(np.array(["a"]), np.array([1])), "are both arrays of numbers"),
        (lambda: cx.evaluate(np.zeros(0), np.zeros(0)), "`scores` is an array without rows"),
        (lambda: cx.evaluate(_SCORES, _TABLE).finding("Oedema"), "`name` is one of Edema, not 'Oedema'"),
    ],
)
def test_no_wrong_call_ends_in_a_traceback(call: Callable[[], object], message: str) -> None:
    with pytest.raises(CxrEmbedError, match=message) as caught:
        call()
    assert str(caught.value).count("\n") < 2


def test_one_name_is_enough_for_a_list() -> None:
    table = _TABLE | {"sex": ["F", "M"]}
    result = cx.evaluate(_SCORES, table, findings="Edema", by="sex", bootstraps=0)
    assert [group.group for group in result.groups] == ["F", "M"]
