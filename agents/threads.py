"""Compiled loops in several threads: as many as torch may use, where there is enough for each to do.

Numba's own threads are not used: they would stand beside torch's, and each kind waits for work by keeping a core busy.
Compiled loops give up the interpreter's lock, so Python's threads will do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch

#: Bytes that a thread has to go through, to be worth its waking: about 0.2 ms.
_BYTES_A_THREAD = 2**21


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="llmgym")


# A fork has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


def n_worth(n_bytes: int) -> int:
    """Threads that going through ``n_bytes`` is worth: at least 1."""
    return max(1, min(torch.get_num_threads(), n_bytes // _BYTES_A_THREAD))


def split(n: int, n_parts: int) -> list[slice]:
    """``n`` rows in ``n_parts`` of about the same length, none of them empty; of no rows one that is."""
    n_parts = max(1, min(n, n_parts))
    return [slice(n * part // n_parts, n * (part + 1) // n_parts) for part in range(n_parts)]


def run(parts: Sequence[slice], work: Callable[[slice], None]) -> None:
    """Do ``work`` for each of ``parts``, at the same time; errors are raised here."""
    first, *others = parts
    if not others:
        work(first)
        return
    running = []
    try:
        for part in others:
            try:
                running.append(_threads(torch.get_num_threads()).submit(work, part))
            except RuntimeError:  # no thread begins any more: the interpreter ends, or the system has none left
                work(part)
        work(first)
    finally:
        wait(running)  # nothing is written any more once this has returned
    for other in running:
        other.result()
