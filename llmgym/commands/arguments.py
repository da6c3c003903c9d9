"""Options of the commands, read off the dataclasses and signatures that the classes take: nothing is declared twice."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

from llmgym.errors import InvalidOptionError, missing_extra
from llmgym.keywords import EnvKeywords, parse_keywords

Options = TypeVar("Options")


def load(module: str) -> Any:
    """A module of agents, or the error that names the extra."""
    loaded = importlib.import_module(module)
    from transformers.utils import logging

    logging.disable_progress_bar()  # of the loading of weights
    return loaded


def _keyword_fields(method: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Dataclass fields from a method's keyword arguments with plain defaults; their help from its docstring."""
    tyro = _tyro()
    from docstring_parser import parse as parse_docstring  # comes with tyro

    hints = get_type_hints(method)
    helps = {p.arg_name: p.description or "" for p in parse_docstring(method.__doc__ or "").params}
    return [
        (name, Annotated[hints[name], tyro.conf.arg(help=helps.get(name, ""))], dataclasses.field(default=p.default))
        for name, p in inspect.signature(method).parameters.items()
        if isinstance(p.default, (int, float, str))
    ]


def parse_for(
    method: Callable[..., Any], base: type[EnvKeywords], arguments: Sequence[str], command: str, positional: str
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Options of a command that calls a method: those of a dataclass, and the method's keyword arguments.

    Returns:
        All options; those for the method; the keyword arguments of the environment.
    """
    of_method = _keyword_fields(method)
    kind: Any = dataclasses.make_dataclass(base.__name__, of_method, bases=(base,), frozen=True)
    kind.__doc__ = base.__doc__
    options = parse(kind, arguments, command, positional)
    env_kwargs = parse_keywords(options.env_kwargs)
    for name in inspect.signature(method).parameters:
        if name in env_kwargs:  # it would be taken for an argument of the method
            mend = f"Use --{name.replace('_', '-')}" if hasattr(options, name) else "Leave it out"
            raise InvalidOptionError(f"Expected no {name!r} among --env-kwargs, actual: {env_kwargs[name]!r}. {mend}.")
    return options, {name: getattr(options, name) for name, _, _ in of_method}, env_kwargs


def parse(options: type[Options], arguments: Sequence[str], command: str, positional: str = "") -> Options:
    """Options from the command line.

    Args:
        options: A dataclass: a field is an option, its docstring the help.
        arguments: What follows the command.
        command: Name of the command, for the usage line.
        positional: The field that a leading argument without a dash sets.
    """
    words = list(arguments)
    if positional and words and not words[0].startswith("-"):
        words.insert(0, f"--{positional}")
    parsed: Options = _tyro().cli(options, args=words, prog=f"llmgym {command}")
    return parsed


def _tyro() -> Any:
    """The package that reads options, or the error that names the extra."""
    try:
        import tyro
    except ImportError as error:
        raise missing_extra("tyro", "agents") from error
    return tyro
