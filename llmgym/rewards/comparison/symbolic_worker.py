"""The process behind ``symbolic``: reads pairs of trees, a line of JSON each, and says whether SymPy proves them equal.

Run as a script, and imported by nothing: it imports nothing of this package, and sets its own memory limit first.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from typing import Any


def _functions(sympy: Any) -> dict[str, Callable[..., Any]]:
    same_name = "sin cos tan cot sec csc sinh cosh tanh coth sech csch exp floor ceiling factorial binomial log"
    renamed = {"abs": "Abs", "max": "Max", "min": "Min", "mod": "Mod"}
    inverted = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
    inverse = {f"arc{name}": f"a{name}" for name in inverted}
    names = {name: name for name in same_name.split()} | renamed | inverse
    return {name: getattr(sympy, other) for name, other in names.items()} | {
        "add": sympy.Add,
        "multiply": sympy.Mul,
        "divide": lambda above, below: above / below,
        "negate": lambda value: -value,
        "power": sympy.Pow,
        "root": lambda radicand, degree=2: sympy.root(radicand, degree),
        "gcd": lambda *values: sympy.gcd(list(values)),
        "lcm": lambda *values: sympy.lcm(list(values)),
    }


class Builder:
    """Builds SymPy's objects from nested lists, one by one: nothing is parsed."""

    def __init__(self, sympy: Any) -> None:
        self.sympy = sympy
        self.functions = _functions(sympy)
        self.constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "inf": sympy.oo}

    def build(self, tree: list[Any]) -> Any:
        """SymPy's object for a tree.

        Raises:
            KeyError: If the tree has an operation that SymPy is not asked about.
        """
        name, *rest = tree
        if name == "number":
            above, _, below = rest[0].partition("/")
            return self.sympy.Rational(int(above), int(below or 1))
        if name == "name":
            return self.sympy.Symbol(rest[0])
        if name == "constant":
            return self.constants[rest[0]]
        operands = [self.build(operand) for operand in rest]
        if name.startswith("call:"):
            return self.sympy.Function(name.removeprefix("call:"))(*operands)
        return self.functions[name](*operands)

    def compare(self, left: list[Any], right: list[Any]) -> str:
        """``"equal"``, ``"different"`` or ``"unknown"``."""
        one, other = self.build(left), self.build(right)
        undefined = (self.sympy.nan, self.sympy.zoo)
        if one.has(*undefined) or other.has(*undefined):
            return "unknown"
        difference = self.sympy.simplify(one - other)
        if difference.has(*undefined):
            return "unknown"
        if difference == 0:
            return "equal"
        return "different" if difference.is_number and difference.is_zero is False else "unknown"


def main() -> None:
    """Answer questions until the input ends."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import sympy  # type: ignore[import-untyped]

    builder = Builder(sympy)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        try:
            reply = builder.compare(*json.loads(line))
        except Exception:  # noqa: BLE001 - whatever SymPy raises, it has not decided; the process is there for that
            reply = "unknown"
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
