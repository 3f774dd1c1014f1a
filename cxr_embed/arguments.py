"""Arguments looked at before a function runs: what its annotations say is what it takes, else an error names them."""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from cxr_embed.errors import CxrEmbedError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LEAST = {"batch_size": 1, "bootstraps": 0, "memory": 1, "seed": 0, "shots": 1}
_ALL_BY_DEFAULT = ("findings", "fractions", "outputs", "shots")  # an empty list of them is a slip and does not mean all
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    os.PathLike: "a path",
}
_LISTED = {int: "whole numbers", float: "numbers", str: "names", os.PathLike: "files"}


def checked_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Refuses arguments that are not what the annotations say, in words that name them.

    Looked at are words, numbers, paths, choices and lists of them; where an annotation allows anything else, the
    function looks for itself. One name stands for a list of it (`findings="Effusion"`); None is the
    default of an argument that has one. A list is given as such, whatever it was: a generator, a column of pandas. A
    number of NumPy's is given as Python's own.

    Raises (the function that is made):
        CxrEmbedError: for an argument that does not fit.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own words for an argument that is missing or unknown
        allowed = _annotations(function)
        for name, value in list(bound.arguments.items()):
            default = signature.parameters[name].default
            if value is None and default not in (None, inspect.Parameter.empty):
                bound.arguments[name] = default
            elif name in allowed:
                bound.arguments[name] = _fitting(name, _plain(value), allowed[name])
        return function(*bound.args, **bound.kwargs)

    return checked


@functools.cache
def _annotations(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """The kinds that each argument may be, of those that are looked at."""
    found = {}
    for name, text in function.__annotations__.items():
        try:
            alone = types.SimpleNamespace(__annotations__={name: text})
            kinds = _kinds(get_type_hints(alone, function.__globals__)[name])
        except NameError:  # imported for type checkers only
            continue
        if name != "return" and all(map(_is_known, kinds)):
            found[name] = kinds
    return found


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The parts of a union."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _kinds(part))
    return (os.PathLike,) if get_origin(annotation) is os.PathLike else (annotation,)


def _parts(kind: Any) -> tuple[Any, ...]:
    """What a list holds; nothing where it is no list."""
    return _kinds(get_args(kind)[0]) if get_origin(kind) is Sequence else ()


def _is_known(kind: Any) -> bool:
    parts = _parts(kind)
    return all(map(_is_known, parts)) if parts else kind in (types.NoneType, *_WORDS) or get_origin(kind) is Literal


def _fitting(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """The value, or the list that it stands for."""
    if any(_fits(value, kind) for kind in kinds):
        if isinstance(value, Integral) and value < _LEAST.get(name, value):
            raise CxrEmbedError(f"`{name}` is a whole number from {_LEAST[name]}, not {value}")
        return value
    parts = next(filter(None, map(_parts, kinds)), ())
    odd = [value]
    if parts and isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        listed = list(map(_plain, value))
        odd = [part for part in listed if not any(_fits(part, kind) for kind in parts)]
    elif any(_fits(value, kind) for kind in parts) and os.PathLike not in parts:
        listed, odd = [value], []
    if not odd and not listed and name in _ALL_BY_DEFAULT:
        raise CxrEmbedError(f"`{name}` is an empty list; leave it out for the default")
    if odd:
        raise CxrEmbedError(f"`{name}` is {_words(kinds)}, not {_short(odd[0])}")
    return listed


def _plain(value: Any) -> Any:
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def _words(kinds: tuple[Any, ...], words_of: Mapping[Any, str] = _WORDS) -> str:
    """The kinds in words: `a path or a list of files`."""
    words: list[str] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += get_args(kind)
        elif parts := _parts(kind):
            words.append(f"a list of {_words(parts, _LISTED)}")
        elif kind in words_of and not (kind is str and os.PathLike in kinds):
            words.append(words_of[kind])
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _short(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | type) else type(value).__name__
