"""What comparing two answers gives, and what it may forgive."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum

from llmgym.errors import InvalidOptionError
from llmgym.rewards.comparison import symbolic


class Status(str, Enum):
    """Whether an answer equals the reference answer, or that nobody could tell."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNVERIFIABLE = "unverifiable"


@dataclass(frozen=True, slots=True)
class Match:
    """A verdict and why, as a stable word such as ``"same_value"`` or ``"different_unit"``."""

    status: Status
    reason: str

    @property
    def is_correct(self) -> bool:
        """Whether the answer counts."""
        return self.status is Status.CORRECT


@dataclass(frozen=True, slots=True)
class Leniency:
    """What is forgiven in an answer. Every default is strict.

    Attributes:
        allow_unevaluated: What is still to be worked out counts: ``17*23`` for ``391``.
        convert_units: Another unit of the same dimension counts: ``1 km`` for ``1000 m``, ``pi/4`` for 45 degrees.
        convert_bases: The same number in another base counts: ``10`` for ``1010_2``.
        ratio_as_fraction: A ratio counts as its quotient: ``3:1`` for ``3``.
        ignore_brackets: Brackets around several values are passed over: ``1, 2`` for ``(1, 2)``.
        rel_tol: Largest difference relative to the larger of the two magnitudes, as in :func:`math.isclose`.
        abs_tol: Largest difference, as in :func:`math.isclose`.
        use_sympy: Ask SymPy, in a process of its own, where our evaluation cannot decide. It has a deadline, so that
            a verdict may depend on the machine.

    Raises:
        InvalidOptionError: If a tolerance is no finite number >= 0, or a switch is no bool.
        MissingExtraError: If ``use_sympy`` is asked for and SymPy is not installed.

    Example:
        >>> Leniency(rel_tol=1e-6)
        Leniency(allow_unevaluated=False, convert_units=False, convert_bases=False, ratio_as_fraction=False, ignore_brackets=False, rel_tol=1e-06, abs_tol=0.0, use_sympy=False)
    """  # noqa: E501

    allow_unevaluated: bool = False
    convert_units: bool = False
    convert_bases: bool = False
    ratio_as_fraction: bool = False
    ignore_brackets: bool = False
    rel_tol: float = 0.0
    abs_tol: float = 0.0
    use_sympy: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name.endswith("_tol"):
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                    raise InvalidOptionError(
                        f"Expected `{entry.name}` to be a finite number >= 0 (0 asks for equality), actual: {value!r}."
                    )
            elif not isinstance(value, bool):
                raise InvalidOptionError(f"Expected `{entry.name}` to be True or False, actual: {value!r}.")
        if self.use_sympy:
            symbolic.require()

    @property
    def has_tolerance(self) -> bool:
        """Whether a decimal may approximate."""
        return self.rel_tol > 0 or self.abs_tol > 0


#: Forgives nothing.
STRICT = Leniency()
