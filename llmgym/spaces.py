"""A space of text. Any Unicode string belongs to it; comparing and printing it costs nothing.

Gymnasium's own ``spaces.Text`` lists its alphabet: the default one has no blank, and one with all of Unicode takes
seconds to compare. Here there is no alphabet. Not for numbers: a text has no fixed width, so it cannot be flattened
into a ``Box`` nor put into shared memory; token actions offer that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from gymnasium.spaces import Space, Tuple, flatdim, flatten, flatten_space, unflatten
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import batch_differing_spaces, create_shared_memory

from llmgym.errors import InvalidOptionError

#: Scripts that ``sample`` mixes, as ranges of code points: ASCII, Latin with accents, Greek, Cyrillic, Chinese, emoji.
_SAMPLED_SCRIPTS = ((0x20, 0x7F), (0xC0, 0x180), (0x391, 0x3CA), (0x410, 0x450), (0x4E00, 0x9FA6), (0x1F600, 0x1F650))


class TextSpace(Space[str]):
    """All texts, of any length and any script.

    Only half of a surrogate pair is left out, since no encoding can write it.

    Args:
        seed: Seeds ``sample``.
        sample_length: Longest text that ``sample`` draws, in characters. It bounds nothing else.

    Example:
        >>> space = TextSpace(seed=0)
        >>> "2 + 2 = 4 ✓" in space, 4 in space, space == TextSpace()
        (True, False, True)
    """

    def __init__(self, seed: int | np.random.Generator | None = None, sample_length: int = 16) -> None:
        if sample_length < 0:
            raise ValueError(f"Expected `sample_length` >= 0, actual: {sample_length}. Use 0 for empty samples.")
        self.sample_length = sample_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text has no fixed width."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a text: up to ``sample_length`` characters of several scripts, lines included."""
        if mask is not None or probability is not None:
            raise ValueError(
                "Expected no `mask` and no `probability` (a text space has no list of elements). Drop them."
            )
        length = int(self.np_random.integers(self.sample_length + 1))
        return "".join(self._sample_character() for _ in range(length))

    def _sample_character(self) -> str:
        script = int(self.np_random.integers(len(_SAMPLED_SCRIPTS) + 1))
        if script == len(_SAMPLED_SCRIPTS):
            return "\n"
        return chr(int(self.np_random.integers(*_SAMPLED_SCRIPTS[script])))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a text that can be encoded."""
        if not isinstance(x, str):
            return False
        try:
            x.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair
            return False
        return True

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        """Texts are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        """The inverse of :meth:`to_jsonable`."""
        return [str(text) for text in sample_n]

    def __repr__(self) -> str:
        return "TextSpace()"

    def __eq__(self, other: object) -> bool:
        # ``sample_length`` is left out: the same texts belong to both.
        return isinstance(other, TextSpace)

    def __hash__(self) -> int:
        return hash(TextSpace)


# What follows tells Gymnasium's generic functions about the space. Batching, concatenating and iterating need nothing:
# Gymnasium's fallback for custom spaces (a tuple with one entry for each environment) is what we want.


# Gymnasium looks the function up by the type of the first space.
@batch_differing_spaces.register(TextSpace)
def _batch_differing_text_spaces(spaces: Sequence[TextSpace]) -> Tuple[Any]:  # type: ignore[misc]
    return Tuple([deepcopy(space) for space in spaces], seed=deepcopy(spaces[0].np_random))


@is_space_dtype_shape_equiv.register(TextSpace)
def _are_equivalent(space_1: TextSpace, space_2: Space[Any]) -> bool:
    return space_1 == space_2


@flatdim.register(TextSpace)
def _flatdim_text(space: TextSpace) -> NoReturn:
    raise ValueError(
        f"Expected a space with a fixed number of elements, actual: {space}, whose texts have any length. "
        'Use `action_unit="token"` for arrays of fixed width.'
    )


@flatten_space.register(TextSpace)
def _flatten_space_text(space: TextSpace) -> TextSpace:
    return space


@flatten.register(TextSpace)
def _flatten_text(space: TextSpace, x: str) -> str:  # type: ignore[misc]
    return x


@unflatten.register(TextSpace)
def _unflatten_text(space: TextSpace, x: str) -> str:  # type: ignore[misc]
    return x


@create_shared_memory.register(TextSpace)
def _refuse_shared_memory(space: TextSpace, n: int = 1, ctx: ModuleType | None = None) -> NoReturn:
    # Not Gymnasium's CustomSpaceError: AsyncVectorEnv would put a message of its own in front of ours.
    raise InvalidOptionError(
        "Expected observations of fixed size for shared memory, actual: TextSpace(), whose texts have any length. "
        "Pass `shared_memory=False` to AsyncVectorEnv (or `vector_kwargs={'shared_memory': False}` to make_vec)."
    )


def check_text(text: Any, where: str) -> str | None:
    """Say what is wrong with a text action; ``None`` where nothing is.

    Args:
        text: What should be a text.
        where: How to name it in the message, e.g. ``"the action"``.
    """
    if not isinstance(text, str):
        return f"Expected {where} to be a str, actual: {text!r} ({type(text).__name__}). Pass the text itself."
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"Expected {where} to be text that UTF-8 can encode, actual: half of a surrogate pair at index "
            f"{error.start}. Decode the text with errors='replace' first."
        )
    return None
