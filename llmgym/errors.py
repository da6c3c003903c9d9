"""Errors that llmgym raises on purpose.

::

    LLMGymError
    ├── InvalidActionError (ValueError)      an action outside the space, or after the end
    ├── PromptTooLongError (ValueError)      a prompt over its token budget
    ├── InvalidOptionError (ValueError)      an unknown keyword, option, reward or template name
    ├── DatasetError (ValueError)            a data set line that cannot be a problem
    ├── CheckpointError (ValueError)         a checkpoint that cannot be written, read or gone on from
    │   └── NewerCheckpointError             one of a newer version of the package
    ├── NotFiniteError (FloatingPointError)  a reward, loss or gradient that is no finite number
    ├── WrongEnvironmentError (TypeError)    a wrapper of ours around an environment of another kind
    └── MissingExtraError (ImportError)      an optional dependency that is not installed

Each message states the rule, the value received and what to do. All of them can be pickled.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LLMGymError(Exception):
    """Base of every error that llmgym raises on purpose."""


class InvalidActionError(LLMGymError, ValueError):
    """The action is not in the action space, or the episode is over."""


class PromptTooLongError(LLMGymError, ValueError):
    """The prompt has more tokens than ``max_prompt_tokens``."""


class InvalidOptionError(LLMGymError, ValueError):
    """A keyword argument, a reset option, a reward or a template that does not exist."""


class DatasetError(LLMGymError, ValueError):
    """A data set, or a line of it, that cannot be read as problems."""


class CheckpointError(LLMGymError, ValueError):
    """A checkpoint that cannot be written, or a folder that holds none that can be read."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint that a newer version of the package wrote."""


class NotFiniteError(LLMGymError, FloatingPointError):
    """A reward, a loss or a gradient that is NaN or infinite; nothing was learned from it."""


class WrongEnvironmentError(LLMGymError, TypeError):
    """A wrapper that reads transcripts was put around an environment that has none."""


class MissingExtraError(LLMGymError, ImportError):
    """An optional dependency is missing; the message holds the install line."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error to raise where an optional dependency is needed and absent.

    Args:
        package: Import name of the missing package, e.g. ``"torch"``.
        extra: The extra of this distribution that brings it, e.g. ``"agents"``.

    Example:
        >>> str(missing_extra("torch", "agents"))
        'Expected the package `torch` to be installed, actual: it is not. Run: pip install "llmgym-rl[agents]"'
    """
    message = (
        f'Expected the package `{package}` to be installed, actual: it is not. Run: pip install "llmgym-rl[{extra}]"'
    )
    return MissingExtraError(message)


def unknown_name(what: str, name: object, known: Iterable[str]) -> InvalidOptionError:
    """The error for a name that is not among the known ones; it proposes the closest of them.

    Example:
        >>> str(unknown_name("a reward", "formt", ["correctness", "format"]))
        "Expected a reward among: correctness, format; actual: 'formt'. Did you mean 'format'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    mend = f"Did you mean {close[0]!r}?" if close else "Use one of those names."
    return InvalidOptionError(f"Expected {what} among: {', '.join(known)}; actual: {name!r}. {mend}")
