"""Judged cases for the verifier: what a response to a known reference answer is worth, decided by hand.

Each module holds tables of one subject. The labels follow the documented rules (``docs/verifier.md``); a response whose
label an honest reader could doubt is left out. Nothing here is taken from a data set.
"""

from . import (
    adversarial_forms,
    adversarial_texts,
    adversarial_values,
    expressions,
    extraction,
    numbers,
    quantities,
    solutions,
    structures,
    words,
)
from .case import MARKER, Case
from .policies import POLICY_CASES, PolicyCase

__all__ = ["CASES", "MARKER", "POLICY_CASES", "TABLES", "Case", "PolicyCase"]

#: Everything as written. A response may stand in two tables.
TABLES: tuple[Case, ...] = (
    *numbers.CASES,
    *expressions.CASES,
    *quantities.CASES,
    *structures.CASES,
    *words.CASES,
    *extraction.CASES,
    *solutions.CASES,
    *adversarial_values.CASES,
    *adversarial_forms.CASES,
    *adversarial_texts.CASES,
)

#: Each once; the adversarial tables stand last, so what is in one of them counts as adversarial.
CASES: tuple[Case, ...] = tuple({(case.response, case.reference_answer): case for case in TABLES}.values())
