"""The state of an episode as text: what a reward, a renderer or a person reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from llmgym.tasks import Problem


class Author(IntEnum):
    """Who wrote a token."""

    PADDING = 0
    PROMPT = 1
    AGENT = 2
    ENVIRONMENT = 3


class StopReason(str, Enum):
    """Why an episode ended."""

    END_TOKEN = "end_token"
    STOP_STRING = "stop_string"
    TASK_OVER = "task_over"
    MAX_NEW_TOKENS = "max_new_tokens"
    MAX_STEPS = "max_steps"
    CONTEXT_FULL = "context_full"

    @property
    def terminated(self) -> bool:
        """True where the task ended, False where a budget ran out."""
        return self in (StopReason.END_TOKEN, StopReason.STOP_STRING, StopReason.TASK_OVER)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Prompt plus everything written since, at one moment.

    Attributes:
        problem: The problem posed.
        prompt: The prompt as the agent saw it.
        segments: What came after the prompt, in order: ``(author, text)``, the author being ``AGENT`` or
            ``ENVIRONMENT``. The text of the end token is left out.
        n_new_tokens: Tokens the agent has written, the end token included.
        step_delimiter: What closes a reasoning step.
        stop_reason: Why the episode ended; ``None`` while it goes on.
    """

    problem: Problem
    prompt: str
    segments: tuple[tuple[Author, str], ...]
    n_new_tokens: int
    step_delimiter: str = "\n"
    stop_reason: StopReason | None = None

    @property
    def response(self) -> str:
        """What the agent wrote, without the end token."""
        if len(self.segments) == 1 and self.segments[0][0] is Author.AGENT:  # nobody else wrote: the usual case
            return self.segments[0][1]
        return "".join(text for author, text in self.segments if author is Author.AGENT)

    @property
    def text(self) -> str:
        """Prompt and everything after it, whoever wrote it."""
        return self.prompt + "".join(text for _, text in self.segments)

    @property
    def reasoning_steps(self) -> tuple[str, ...]:
        """The response cut after each delimiter; the last one may still be open."""
        return split_steps(self.response, self.step_delimiter)


@dataclass(frozen=True, slots=True)
class Transition:
    """What one action did, as far as rewards care.

    Attributes:
        transcript: The state after the action.
        first_step: Index of the first reasoning step that the action closed.
        last_step: One past the last of them; equal to ``first_step`` where none was closed. The end of an episode
            closes a step that was still open.
        ended: Whether the episode is over.
    """

    transcript: Transcript
    first_step: int
    last_step: int
    ended: bool


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """One token of an episode, for a renderer.

    Attributes:
        text: What the token adds to the text. A character that spans several tokens is shown with the last of them.
        author: Who wrote it.
        reward: What was paid at the transition that wrote it; for an action of several tokens, at its last token.
    """

    text: str
    author: Author
    reward: float = 0.0


def count_steps(text: str, delimiter: str) -> int:
    """``len(split_steps(text, delimiter))``, without cutting where the delimiter is one character.

    >>> count_steps("a\\nb\\n\\nc", "\\n"), count_steps("a\\n", "\\n"), count_steps("", "\\n"), count_steps("aaa", "aa")
    (4, 1, 0, 2)
    """
    if len(delimiter) > 1:  # it may overlap itself: where the last one ends takes a scan from the left
        return len(split_steps(text, delimiter))
    return text.count(delimiter) + (text[-1:] not in ("", delimiter))


def split_steps(text: str, delimiter: str) -> tuple[str, ...]:
    """Cut ``text`` after each ``delimiter``. The pieces join to ``text``; none is empty.

    >>> split_steps("a\\nb\\n\\nc", "\\n")
    ('a\\n', 'b\\n', '\\n', 'c')
    """
    pieces = text.split(delimiter)
    steps = [piece + delimiter for piece in pieces[:-1]]
    if pieces[-1]:
        steps.append(pieces[-1])
    return tuple(steps)
