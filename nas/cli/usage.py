"""Mistakes on the command line, each told as one sentence, as all other wrong input is."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nas.errors import NasError, brief, closest, nearest
from nas.text import shown_url

KINDS: Mapping[type, str] = {int: "an integer", float: "a number", bool: "true or false"}


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raises typer's errors about what was typed as NasError."""
    try:
        yield
    except Exception as error:
        if sentence := sentence_of(error):
            raise NasError(sentence) from None
        raise


def refuse_empty(typed: Sequence[str]) -> None:
    """Raises NasError for an empty value, as an unset variable of a shell leaves it: most options
    have an empty default, so the command would go on as if it had not been given."""
    before = ""
    for word in typed:
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals and not value:
            raise NasError(f"{name}: its value is empty")
        if not word:
            option = before.startswith("-") and before != "--"
            raise NasError(f"{before}: its value is empty" if option else "an argument is empty")
        before = word


def sentence_of(error: Any) -> str:
    """What is wrong with a command line; empty for any error but typer's, and for its request to
    show the help. Typer's errors are in no public module, and so are told apart by their fields."""
    if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
        return ""
    param, context = getattr(error, "param", None), getattr(error, "ctx", None)
    if hasattr(error, "possibilities"):
        return no_such_option(error.option_name, context)
    if hasattr(error, "option_name"):
        lacks = "requires" in error.message
        return f"{error.option_name}: {'its value is missing' if lacks else 'takes no value'}"
    if hasattr(error, "param_type") and param is not None:
        return f"{name_of(param)} is needed: {usage(context)}"
    if param is not None:
        return _bad_value(error, param)
    if context is not None:
        if name := re.match("No such command (['\"])(.*?)\\1", error.message):
            known = nearest(name[2], context.command.commands)
            return f"{_shown(name[2])}: no such command of {context.command_path}; {known}"
        if extra := re.fullmatch(r"Got unexpected extra argument.*? \((.*)\)", error.message):
            takes = usage(context)
            rule = "takes options only" if takes == context.command_path else "is all it takes"
            return f"{brief(shown_url(extra[1]), 100)}: too many arguments: {takes} {rule}"
    message: str = error.format_message()
    return message


def no_such_option(option: str, context: Any) -> str:
    params = context.command.get_params(context)
    known = [name for param in params for name in (*param.opts, *param.secondary_opts)]
    near = closest(option, [name for name in known if name.startswith("--")])
    path = context.command_path
    hint = f"did you mean {near}?" if near else f"{path} --help lists those that it has"
    return f"{brief(shown_url(option))}: no such option of {path}; {hint}"


def usage(context: Any) -> str:
    """The command and its arguments, as one would type them."""
    params = context.command.get_params(context)
    arguments = [name_of(param) for param in params if param.param_type_name == "argument"]
    needed = [
        f"{name_of(param)} {param.metavar or param.name.upper()}"
        for param in params
        if param.param_type_name == "option" and param.required
    ]
    return " ".join([context.command_path, *arguments, *needed])


def name_of(param: Any) -> str:
    """An argument or an option as it is typed."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return str(max(param.opts, key=len))


def _bad_value(error: Any, param: Any) -> str:
    errors: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's
    value = f" {_shown(errors[0]['input'])}" if errors else ""
    kind: Any = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    rule = f"must be {KINDS[kind]}{_range(param)}" if kind in KINDS else error.message
    return f"{name_of(param)}{value}: {rule}"


def _range(param: Any) -> str:
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    if least is None:
        return "" if most is None else f", {most} or less"
    return f", {least} or more" if most is None else f" from {least} to {most}"


def _shown(value: Any) -> str:
    """A value as one would type it, but for a password."""
    return brief(shlex.quote(shown_url(str(value))), 100)
