"""Judging in processes of its own, for rewards that take long: a sandbox, a prover, a heavy verifier.

The transitions of one step are spread over the workers and come back in order, so that a reward is still paid at the
step that earns it, and is the same whatever the number of workers. For rewards that take a millisecond or more; the
built-in ones take a twentieth of that, and are quicker without.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llmgym.errors import InvalidOptionError, LLMGymError
from llmgym.rewards.base import Judgement, Reward
from llmgym.transcript import Transition

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

#: Chunks of a batch for each worker: more of them even out answers that take long, fewer cost less to send.
_CHUNKS_EACH = 4


class RewardWorkers:
    """Processes that judge what rewards say of transitions. They start when there is something to judge.

    Each worker has its own copy of the rewards: what a reward counts or keeps while it judges stays there.

    Args:
        rewards: What judges; each has to judge a transition by itself, whatever others come with it.
        n_workers: Number of processes.

    Raises:
        InvalidOptionError: If there are fewer than one worker, or a reward cannot be pickled.
    """

    def __init__(self, rewards: Sequence[Reward], n_workers: int) -> None:
        if n_workers < 1:
            raise InvalidOptionError(f"Expected `n_workers` >= 1, actual: {n_workers}. Raise it.")
        for reward in rewards:
            _pickled(reward, f"the reward {reward.name!r}")
        self.n_workers = n_workers
        self._rewards = tuple(rewards)
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies start workers of their own."""
        return self.__dict__ | {"_pool": None}

    def settle(self, transitions: Sequence[Transition]) -> list[list[Judgement]]:
        """``[reward.settle(transitions) for reward in rewards]``.

        Raises:
            InvalidOptionError: If a transition cannot be pickled, or this process may not start others.
            LLMGymError: If a worker ended. The next call starts new ones.
            Exception: What a reward raises, with the worker's traceback as its cause; a ``RuntimeError`` that tells of
                it where it cannot be pickled.
        """
        from concurrent.futures.process import BrokenProcessPool

        chunks = [_pickled(chunk, "the problem of each transition") for chunk in self._cut(transitions)]
        pool = self._pool or self._start()
        try:
            judged = list(pool.map(_judge, chunks))
        except BrokenProcessPool as error:
            self.close()
            raise LLMGymError(
                f"Expected reward workers that stay alive, actual: one ended ({error}) If a script starts them, put "
                'what it runs under `if __name__ == "__main__":`. Otherwise a reward ended its process, or memory ran '
                "out: see what it wrote, or judge here with reward_workers=0."
            ) from error
        return [[judgement for chunk in judged for judgement in chunk[i]] for i in range(len(self._rewards))]

    def close(self) -> None:
        """End the workers, once what they are judging now is done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _start(self) -> ProcessPoolExecutor:
        from concurrent.futures import ProcessPoolExecutor

        if multiprocessing.current_process().daemon:
            raise InvalidOptionError(
                f"Expected reward_workers=0 in a daemonic process, which may not start others, actual: "
                f"{self.n_workers}. Gymnasium's AsyncVectorEnv takes daemon=False; the native vector environment of "
                "gymnasium.make_vec needs no such process."
            )
        # Spawned, since a copy of a process with threads (PyTorch's, the tokenizer's) may hang.
        self._pool = ProcessPoolExecutor(
            self.n_workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_receive,
            initargs=(pickle.dumps(self._rewards),),
        )
        return self._pool

    def _cut(self, transitions: Sequence[Transition]) -> list[Sequence[Transition]]:
        n, n_chunks = len(transitions), min(len(transitions), _CHUNKS_EACH * self.n_workers)
        cuts = [n * i // n_chunks for i in range(n_chunks + 1)] if n else []
        return [transitions[start:end] for start, end in pairwise(cuts)]


def _pickled(value: Any, what: str) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:  # whatever a method of the value raises
        raise InvalidOptionError(
            f"Expected {what} to be something that can be pickled with `reward_workers`, actual: it is not ({error}). "
            "Use a function or a class at the top of a module, no lambda; or judge here with reward_workers=0."
        ) from error


# --- In a worker ------------------------------------------------------------------------------------------------------

_received = b""


def _receive(rewards: bytes) -> None:
    """Keep the rewards. They are read when they are needed: an error here would end the worker without a word."""
    global _received
    _received = rewards
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for the judgements


@cache
def _rewards() -> tuple[Reward, ...]:
    rewards: tuple[Reward, ...] = pickle.loads(_received)
    return rewards


def _judge(chunk: bytes) -> list[list[Judgement]]:
    try:
        transitions = pickle.loads(chunk)
        return [reward.settle(transitions) for reward in _rewards()]
    except Exception as error:
        raise _that_travels(error) from error


def _that_travels(error: Exception) -> Exception:
    """The error, or one that tells of it where it would not arrive as it left."""
    try:
        arrived = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception may refuse in any way
        arrived = None
    return error if type(arrived) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")
