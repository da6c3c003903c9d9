"""Regular expressions that are compiled when they are first used.

Compiling those of this package takes a tenth of a second, which nobody should wait for who only imports it.
"""

from __future__ import annotations

import re
from typing import Any, cast


class _Pattern:
    """A pattern to be: it becomes one when a method is first asked for, and then costs no more than one."""

    def __init__(self, source: str, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if not hasattr(re.Pattern, name):
            raise AttributeError(name)
        method = getattr(re.compile(self._source, self._flags), name)  # of one object, since `re` keeps it
        self.__dict__[name] = method
        return method


def pattern(source: str, flags: int = 0) -> re.Pattern[str]:
    """What :func:`re.compile` gives, compiled when it is first used.

    Example:
        >>> pattern("[0-9]+").search("it is 42").group()
        '42'
    """
    return cast(re.Pattern[str], _Pattern(source, flags))
