"""How a command begins and ends: its paths are checked, and whatever goes wrong is said in one or two lines."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from cxr_embed.cli.common import Failed, fail, printed_json
from cxr_embed.cli.terminal import name_flags
from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.addresses import address_of, address_problem
from cxr_embed.io.files import not_local
from cxr_embed.types import collected_stand_ins, licences_read, stand_ins_read

_WRITTEN = ("out", "montage", "report")  # options that name what a verb writes
_AT_ADDRESSES = ("embed", "validate")  # verbs whose --root may be an address
_NO_MEMORY = "there is not enough memory for this; free some, raise the limit (`ulimit -v`), or ask for less"


class _Checked(TyperCommand):
    """A verb, whose paths and words are looked at before it is run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param, count in Counter(order).items():
            if count > 1 and isinstance(param, TyperOption) and not (param.multiple or param.is_flag):
                ctx.fail(f"{param.opts[0]} is given {count} times; it takes one value")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        name_flags(_flags_of(ctx))
        for name, value in ctx.params.items():
            for path in value if isinstance(value, list | tuple) else (value,):
                if isinstance(path, str) and path.encode(errors="ignore").decode() != path:
                    fail(f"{path.encode(errors='backslashreplace').decode()}: not text in UTF-8", 2)
                if isinstance(path, Path) and (why := _refused(ctx, name, path)) is not None:
                    fail(why, 2)
        _check_written(ctx.params)
        with collected_stand_ins():
            try:
                result = super().invoke(ctx)
            except typer.Exit:
                _print_stand_ins(ctx)
                raise
            _print_stand_ins(ctx)
        return result


def _refused(ctx: Any, name: str, path: Path) -> str | None:
    """Why a path cannot be what it was given as; radiographs alone may lie at an address."""
    address = address_of(path) if name == "root" and ctx.command.name in _AT_ADDRESSES else None
    return not_local(path) if address is None else address_problem(address)


def _flags_of(ctx: Any) -> dict[str, str]:
    """What a user types for each argument that a message may name, as this verb has it, else any other."""
    root = ctx.find_root().command
    return _typed(_all_params(root)) | _typed(ctx.command.params)


def _all_params(command: Any) -> list[Any]:
    """The options of all verbs; positional arguments mean something in their own verb only."""
    if not hasattr(command, "commands"):
        return [param for param in command.params if param.param_type_name == "option"]
    return [param for each in command.commands.values() for param in _all_params(each)]


def _typed(params: Iterable[Any]) -> dict[str, str]:
    """Names as the library has them: `--key-file` is `key_file`."""
    typed = {}
    for param in params:
        flag = param.opts[0]
        if param.param_type_name == "option":
            typed[flag.lstrip("-").replace("-", "_")] = flag
        typed[param.name] = flag if param.param_type_name == "option" else param.name.upper()
    return typed


def _print_stand_ins(ctx: Any) -> None:
    """What holds of the vectors that a verb read: a stand-in (for programs `print_json` has it inside), a licence."""
    for sentence in () if ctx.params.get("as_json") else stand_ins_read():
        typer.echo(f"stand-in: {sentence}")
    for sentence in licences_read():
        typer.echo(f"licence: {sentence}", err=True)


def _check_written(params: Mapping[str, Any]) -> None:
    """Refuses to write over what is read: the same file or folder, however it is spelled."""
    read = {
        os.path.realpath(path)
        for name, value in params.items()
        for path in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(path, Path) and name not in _WRITTEN
    }
    for name in _WRITTEN:
        path = params.get(name)
        if isinstance(path, Path) and os.path.realpath(path) in read:
            fail(f"--{name} {path}: this command reads it, and would write over it; give another --{name}", 2)


def check_all(app: typer.Typer) -> None:
    """Makes every verb of a command line, also those of its groups, check its paths."""
    for command in app.registered_commands:
        command.cls = _Checked
    for group in app.registered_groups:
        if group.typer_instance is not None:
            check_all(group.typer_instance)


def run(app: Callable[..., Any]) -> None:
    """Runs a command line to its end.

    With `--json` an error is an object on standard output too: `error` (the message), `status` (the exit status) and
    `problems`, where there is a list of them.
    """
    _print_any_letter()
    try:
        _call(app)
    except Failed as end:
        _print_error(end.message, end.status)
        raise
    except SystemExit as end:
        _flush(end)
        raise
    except CxrEmbedError as error:
        _end(str(error), getattr(error, "problems", ()))
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing more can be written, not even at exit.
        _give_up_output()
        raise SystemExit(1) from None
    except (MemoryError, OSError, ImportError, RuntimeError) as error:
        reason = _of_the_machine(error)
        if reason is None:
            raise
        _end(reason)
    except Exception as error:
        _print_error(f"{type(error).__name__}: {error}", 1)
        raise


def _call(app: Callable[..., Any]) -> None:
    """Calls the verb and ends; a wrong call is answered in one line, as every other error is.

    Raises:
        SystemExit: always.
    """
    try:
        status = app(standalone_mode=False)
    except typer.Abort:
        fail("stopped")
    except Exception as error:
        usage: Any = error
        if not hasattr(usage, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            usage.show()
            raise SystemExit(usage.exit_code) from None
        message = usage.format_message().replace("Value error, ", "").removesuffix(".")
        help_of = f"; see `{usage.ctx.command_path} --help`" if usage.ctx is not None else ""
        fail(f"{message}{help_of}", usage.exit_code)
    raise SystemExit(status if isinstance(status, int) else 0)


def _print_any_letter() -> None:
    """A terminal without a letter still gets the line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(message: str, problems: Iterable[str] = ()) -> None:
    try:
        fail(message)
    except Failed as end:
        _print_error(message, end.status, tuple(problems))
        raise


def _print_error(message: str, status: Any, problems: tuple[str, ...] = ()) -> None:
    """The error for a program to read, where it asked for JSON and was given none."""
    if "--json" not in sys.argv or printed_json():
        return
    body = {"error": message, "status": status, **({"problems": list(problems)} if problems else {})}
    with contextlib.suppress(OSError):
        typer.echo(json.dumps(body, indent=2, ensure_ascii=False))


def _of_the_machine(error: Exception) -> str | None:
    """What the machine, not the program, failed in, in words; None for a fault of ours."""
    if isinstance(error, OSError):
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            _give_up_output()
            return f"standard output cannot be written ({error.strerror})"
        if error.errno == errno.ENOMEM:
            return _NO_MEMORY
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or error}"
    if isinstance(error, ImportError):
        return f"a library cannot be loaded ({error}); is it whole, and is there memory enough (`ulimit -v`)?"
    text = str(error).lower()
    if isinstance(error, MemoryError) or "alloc" in text or "start new thread" in text:
        return _NO_MEMORY
    return None


def _flush(end: SystemExit) -> None:
    """Writes what is left to standard output; an end in good order that cannot be printed is none."""
    try:
        if sys.stdout is not None:  # as with >&-
            sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
    except OSError as error:
        _give_up_output()
        if not end.code:
            fail(f"standard output cannot be written ({error.strerror})")


def _give_up_output() -> None:
    """What is still to be written to standard output goes nowhere, also at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
