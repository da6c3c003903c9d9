"""Keyword arguments of environments on the command line: declared once, for every command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmgym.errors import InvalidOptionError

#: Keyword arguments of environments that a program which plays in them chooses itself: how many there are, and how they
#: are played in.
OF_THE_PLAYER = (
    "action_unit", "autoreset_mode", "copy", "num_envs", "render_mode", "vector_kwargs", "vectorization_mode",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EnvKeywords:
    """An option of every command that makes an environment.

    Attributes:
        env_kwargs: Keyword arguments of the environment: name=value (the value may be JSON), or one JSON object.
    """

    env_kwargs: tuple[str, ...] = ()


def parse_keywords(words: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments from the command line.

    Args:
        words: ``name=value`` each, the value being JSON or else taken as text; or JSON objects.

    Example:
        >>> parse_keywords(["level=2", "language=en", '{"rewards": {"format": 0.1}}'])
        {'level': 2, 'language': 'en', 'rewards': {'format': 0.1}}
    """
    keywords: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if word.lstrip().startswith("{"):
            try:
                keywords.update(json.loads(word))
            except json.JSONDecodeError as error:
                raise InvalidOptionError(f"Expected a JSON object, actual: {word!r} ({error}). Mend it.") from error
        elif equals and name.isidentifier():
            try:
                keywords[name] = json.loads(value)
            except json.JSONDecodeError:
                keywords[name] = value  # plain text needs no quotes
        else:
            raise InvalidOptionError(
                f"Expected environment keywords as name=value or as a JSON object, actual: {word!r}. "
                "Write e.g. --env-kwargs level=2 language=en"
            )
    return keywords


def refuse_keywords(keywords: Mapping[str, Any], names: Iterable[str], who: str) -> None:
    """Refuse keyword arguments of an environment that are not for the user to choose.

    Args:
        keywords: What the user gave.
        names: What is chosen already.
        who: Chooses it: ``"The export"``.

    Raises:
        InvalidOptionError: If one of the names is there.
    """
    for name in names:
        if name in keywords:
            raise InvalidOptionError(
                f"Expected no {name!r} among the keyword arguments of the environment, actual: {keywords[name]!r}. "
                f"{who} chooses it: leave it out."
            )
