"""The random generators that everybody shares, given to one piece of work for as long as it lasts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def shared_generators(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch; afterwards they are as they were.

    Args:
        seed: At least 0; NumPy's legacy generator takes it modulo ``2 ** 32``.

    Example:
        >>> with shared_generators(0):
        ...     first = random.random()
        >>> with shared_generators(0):
        ...     print(random.random() == first)
        True
    """
    # NumPy's legacy generator is what agents use that were given none.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
