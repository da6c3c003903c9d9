"""What the policy arguments forgive, and what they still do not."""

# fmt: off
from __future__ import annotations

from typing import Any, NamedTuple


class PolicyCase(NamedTuple):
    """A response judged with arguments other than the defaults."""

    arguments: dict[str, Any]
    response: str
    reference_answer: str
    correct: bool


POLICY_CASES = [
    PolicyCase(arguments, f"<answer>{answer}</answer>", reference, correct)
    for arguments, reference, right, wrong in [
        ({"allow_unevaluated": True}, "391", ["17*23", "391", r"17 \times 23", "782/2"], ["17*24", "17+23", "390"]),
        ({"allow_unevaluated": True}, "5", ["2+3", "10/2"], ["2-3", "2+2"]),
        ({"convert_units": True}, "1000 m", ["1 km", "1000 m", "1000", "100000 cm"], ["1 m", "10 km", "1000 kg", "1000 s"]),
        ({"convert_units": True}, r"\$5", ["500 cents", "5 dollars"], ["5 cents", "50 cents"]),
        ({"convert_units": True}, r"45^\circ", [r"\frac{\pi}{4}", "45"], [r"\frac{\pi}{3}", "0.785"]),
        ({"convert_units": True}, "2 hours", ["120 minutes", "7200 seconds"], ["2 minutes", "120 hours"]),
        ({"convert_bases": True}, "1010_2", ["10", "12_8", "0b1010", "0xA"], ["1010", "11", "1010_3", "10_2"]),
        ({"convert_bases": True}, "10", ["1010_2", "12_8"], ["1010", "12", "1011_2"]),
        ({"ignore_brackets": True}, "(1,2)", ["1, 2", "(1,2)"], ["2, 1", "(2,1)", "1", "1, 2, 3"]),
        ({"ratio_as_fraction": True}, "3:4", ["3/4", "0.75", "3:4"], ["4/3", "4:3", "3"]),
        ({"ratio_as_fraction": True}, r"\frac{1}{2}", ["1:2", "2:4"], ["2:1"]),
        ({"rel_tol": 1e-3}, "1/3", ["0.3333", "1/3"], ["0.33", "0.34", "-0.3333"]),
        ({"rel_tol": 1e-3}, r"\pi", ["3.1416", "3.142", "22/7"], ["3.2", "3.1"]),
        ({"abs_tol": 0.01}, "2.5", ["2.505", "2.5", "2.495"], ["2.52", "2.4", "-2.5"]),
        ({"abs_tol": 0.01}, "0", ["0.005", "0"], ["0.1"]),
        ({"rel_tol": 1e-6}, "100", ["100.00001"], ["100.001", "99.9", "42"]),
    ]
    for correct, column in ((True, right), (False, wrong))
    for answer in column
]
