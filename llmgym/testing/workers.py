"""Scoring many responses in a process that can be killed: what hangs or crashes there costs its answer, no more.

Not for what is posed (:mod:`llmgym.testing.probes`) nor for what the scores mean (:mod:`llmgym.testing.verdicts`).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import numbers
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import IO, Any, TypeAlias

from llmgym.errors import InvalidOptionError
from llmgym.tasks import Problem

#: A response that takes longer than this, in seconds, is measured again; the smallest measurement counts.
SLOW = 1.0
#: So often a probe may be stopped at the deadline; the rest of it is then left out.
MAX_HANGS = 2
#: And so often in all; what is left then is left out.
_MAX_HANGS_IN_ALL = 12
#: Seconds that an interpreter may take to start, and then to import what the scorer needs, before the first response.
_START = 120.0
#: A fresh interpreter may take so many seconds longer for a response than any took before: it imports things then.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a scorer may return instead of a number, to say more.

    Attributes:
        score: What was paid.
        components: Its parts by name, which have to sum to it.
        left_out: Why the response that was judged is not the one that was posed; ``""`` where it is.
        cut: Whether only a part of it was judged, so that the score says nothing of the response.
    """

    score: float
    components: Mapping[str, float] = field(default_factory=dict)
    left_out: str = ""
    cut: bool = False


#: Scores a response to a problem.
Scorer: TypeAlias = Callable[[str, Problem], "float | Judgement"]


@dataclass(frozen=True, slots=True)
class Job:
    """One response to judge.

    Attributes:
        probe: Name of the probe that it belongs to.
        variant: Which of the probe's responses it is.
        index: Place of its problem among the problems.
        response: The response.
    """

    probe: str
    variant: str
    index: int
    response: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a :class:`Job`.

    Attributes:
        score: What was paid; ``None`` where there was no number.
        seconds: How long the scorer took.
        fault: What went wrong, e.g. ``"raised KeyError: 3"``; ``""`` where nothing did.
        components: Parts of the score.
        left_out: See :class:`Judgement`.
        cut: See :class:`Judgement`.
    """

    score: float | None = None
    seconds: float = 0.0
    fault: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    left_out: str = ""
    cut: bool = False

    @property
    def is_faulty(self) -> bool:
        """Whether something went wrong beside what was paid: no score, no finite one, or one that took long."""
        return bool(self.fault) or self.seconds > SLOW or (self.score is not None and not math.isfinite(self.score))

    def agrees(self, other: Outcome) -> bool:
        """Whether both tell the same: equal scores, or faults of the same kind."""
        if self.score is None or other.score is None:
            return self.score is other.score and self.fault.partition(":")[0] == other.fault.partition(":")[0]
        if math.isnan(self.score) or math.isnan(other.score):
            return math.isnan(self.score) and math.isnan(other.score)
        return math.isclose(self.score, other.score, rel_tol=1e-9, abs_tol=1e-9)


def judge(scorer: Scorer, job: Job, problems: Sequence[Problem]) -> Outcome:
    """Have one response judged, here and now."""
    start = time.perf_counter()
    try:
        result: Any = scorer(job.response, problems[job.index])
    except Exception as error:  # noqa: BLE001 - whatever a scorer raises is what the audit is there to report
        seconds = time.perf_counter() - start
        message = " ".join(str(error).split())[:120]
        return Outcome(seconds=seconds, fault=f"raised {type(error).__name__}: {message}")
    seconds = time.perf_counter() - start
    judgement = result if isinstance(result, Judgement) else Judgement(result)
    try:
        score = _real(judgement.score)
    except Exception as error:  # noqa: BLE001 - as above: what comes back may have methods of its own
        what = f"{type(judgement.score).__name__} ({error})"
        return Outcome(seconds=seconds, fault=f"returned {' '.join(what.split())[:120]}, which is no number")
    return Outcome(score, seconds, "", judgement.components, judgement.left_out, judgement.cut)


def _real(score: Any) -> float:
    """A real number as a float; also one that NumPy or a tensor holds. A text is none, whatever it says."""
    if not isinstance(score, numbers.Real) and callable(getattr(score, "item", None)):
        score = score.item()
    if not isinstance(score, numbers.Real):
        raise TypeError(f"{score!r:.60}")
    return float(score)


# --- A worker that can be killed --------------------------------------------------------------------------------------


def run(
    scorer: Scorer,
    jobs: Sequence[Job],
    problems: Sequence[Problem],
    *,
    deadline: float,
    thread: bool = False,
    beside: Scorer | None = None,
) -> list[Outcome | None]:
    """Have responses judged in another process, one after the other.

    The process is forked where the platform can, so that closures and lambdas will do; elsewhere the scorer has to be
    picklable. A response without an answer after the deadline costs the process its life, and the next one goes on.

    Args:
        scorer: The scorer.
        jobs: The responses.
        problems: The problems that they answer.
        deadline: Seconds for each response.
        thread: Whether to judge in a thread of that process instead of in its main one.
        beside: With ``thread``: a scorer that another thread asks at the same time, again and again.

    Returns:
        An outcome for each job; ``None`` where the job was left out after too many had hung.

    Raises:
        InvalidOptionError: If the scorer cannot be brought into another process.
    """
    outcomes: list[Outcome | None] = [None] * len(jobs)
    hangs: Counter[str] = Counter()
    todo = list(range(len(jobs)))
    while todo:
        worker = _Worker(scorer, [jobs[i] for i in todo], problems, thread, beside)
        try:
            for i in todo:
                outcome = worker.next(deadline)
                outcomes[i] = outcome
                if worker.lost:
                    hangs[jobs[i].probe] += 1
                    break
        finally:
            worker.kill()
        if hangs.total() >= _MAX_HANGS_IN_ALL:
            break
        stopped = {probe for probe, count in hangs.items() if count >= MAX_HANGS}
        todo = [i for i in todo if outcomes[i] is None and jobs[i].probe not in stopped]
    return outcomes


class _Worker:
    """A process that judges a list of responses and sends each outcome as soon as it has it."""

    def __init__(
        self,
        scorer: Scorer,
        jobs: Sequence[Job],
        problems: Sequence[Problem],
        thread: bool,
        beside: Scorer | None,
    ) -> None:
        can_fork = "fork" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("fork" if can_fork else "spawn")
        if not can_fork:
            _check_picklable(scorer)
        self.receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, os.getpid(), scorer, jobs, problems, thread, beside)
        self.process = context.Process(target=_work, args=arguments)
        with warnings.catch_warnings():
            # Python warns of threads that a fork would cut off; the child runs the scorer and nothing else.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        sender.close()
        #: Whether the process had to be given up.
        self.lost = False
        self._wait(_START)

    def _wait(self, seconds: float) -> Outcome | None:
        """The next message: an outcome, or ``None`` for a sign of life."""
        try:
            if self.receiver.poll(seconds):
                outcome: Outcome | None = self.receiver.recv()
                return outcome
        except (EOFError, ConnectionResetError):
            self.lost = True
            self.process.join(1.0)
            return Outcome(fault=f"ended its process (exit code {self.process.exitcode})")
        self.lost = True
        return Outcome(seconds=seconds, fault=f"gave no score within {seconds:g} s")

    def next(self, deadline: float) -> Outcome:
        """The next outcome, or what stands for it where the process hangs or has died."""
        while True:
            outcome = self._wait(deadline)
            if outcome is not None:
                return outcome

    def kill(self) -> None:
        """End the process, and those that the scorer has started."""
        if self.process.pid is not None and hasattr(os, "killpg"):
            # Its own group, see `_work`; unless it has ended, or has not yet come to make one.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.receiver.close()


def _work(
    sender: Connection,
    parent: int,
    scorer: Scorer,
    jobs: Sequence[Job],
    problems: Sequence[Problem],
    thread: bool,
    beside: Scorer | None,
) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    die_with(parent)
    sender.send(None)

    def judge_all() -> None:
        for job in jobs:
            outcome = judge(scorer, job, problems)
            for _ in range(2):
                if outcome.seconds <= SLOW:
                    break
                sender.send(None)  # the deadline begins anew
                again = judge(scorer, job, problems)  # the first call imports things, and the machine may be busy
                outcome = replace(outcome, seconds=min(outcome.seconds, again.seconds))
            sender.send(outcome)

    def disturb() -> None:
        while True:  # a daemon: it ends with the process
            for job in reversed(jobs):
                judge(beside, job, problems)  # type: ignore[arg-type]  # started only where there is one

    if thread:
        if beside is not None:
            sys.setswitchinterval(1e-4)  # what two threads do to one another shows the sooner
            threading.Thread(target=disturb, daemon=True).start()
        worker = threading.Thread(target=judge_all)
        worker.start()
        worker.join()
    else:
        judge_all()


#: ``PR_SET_PDEATHSIG`` of ``prctl``: the signal that Linux sends to a process when its parent ends.
_PARENT_DEATH_SIGNAL = 1


def die_with(parent: int) -> None:
    """Have this process end when its parent does, however that ends: it is in a group of its own and no signal for
    the parent reaches it.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        # The kernel does it, also while the scorer holds the interpreter's lock.
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it has ended meanwhile
            os._exit(1)
    else:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(0.5)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _check_picklable(scorer: Scorer) -> None:
    reason = why_not_picklable(scorer)
    if reason:
        raise InvalidOptionError(
            f"Expected a scorer that can be pickled (this platform cannot fork a process), actual: {reason}. Use a "
            "function or a class at the top of a module."
        )


def why_not_picklable(scorer: Scorer) -> str:
    """Why a scorer cannot be pickled and read back; ``""`` where it can."""
    try:
        pickle.loads(pickle.dumps(scorer))
    except Exception as error:  # noqa: BLE001 - classes may raise anything from __reduce__ and __setstate__
        return f"{type(error).__name__}: {error}"
    return ""


# --- A fresh interpreter ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FreshOutcomes:
    """What a fresh interpreter came to.

    Attributes:
        outcomes: One for each job, or for those before it ended.
        not_loaded: Why the scorer could not be brought there; ``""`` where it could.
        fault: How it ended before all were judged; ``""`` where it did not.
    """

    outcomes: list[Outcome]
    not_loaded: str = ""
    fault: str = ""


class FreshInterpreter:
    """An interpreter of its own, with a given hash seed, that judges responses while the caller does other things.

    Args:
        scorer: A scorer that can be pickled.
        jobs: The responses.
        problems: The problems that they answer.
        hash_seed: ``PYTHONHASHSEED``.
    """

    def __init__(self, scorer: Scorer, jobs: Sequence[Job], problems: Sequence[Problem], hash_seed: int) -> None:
        self._n_jobs = len(jobs)
        self._killed = False
        # Files, not pipes: neither side ever waits for the other.
        self._input: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `__exit__` closes both
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        pickle.dump((os.getpid(), sys.path), self._input)
        pickle.dump(pickle.dumps((scorer, list(jobs), list(problems))), self._input)
        self._input.seek(0)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import work_alone; work_alone()"],
            stdin=self._input,
            stdout=self._output,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # so that what the scorer starts can be ended with it
        )

    def __enter__(self) -> FreshInterpreter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._input.close()
        self._output.close()

    def wait(self, patience: float) -> FreshOutcomes:
        """Wait for the outcomes.

        Args:
            patience: Seconds that each response may take at most; :data:`_PATIENCE` more are given.
        """
        size, since, hangs = -1, time.monotonic(), False
        while self._process.poll() is None and not hangs:
            now = os.fstat(self._output.fileno()).st_size
            if now != size:
                size, since = now, time.monotonic()
            hangs = time.monotonic() - since > (_PATIENCE + patience if size >= _PREFACE else _START)
            time.sleep(0.01)
        end = "hung" if hangs else f"ended with exit code {self._process.returncode}"
        self.kill()
        messages = self._messages()
        if not messages:  # not a line of the scorer's has run
            return FreshOutcomes([], not_loaded=f"the interpreter {end}")
        if len(messages) == 1:
            return FreshOutcomes([], fault=f"ended its process: the interpreter {end} as it loaded the scorer")
        _, not_loaded, *outcomes = messages
        missing = len(outcomes) < self._n_jobs and not not_loaded
        return FreshOutcomes(outcomes, not_loaded, f"ended its process: the interpreter {end}" if missing else "")

    def _messages(self) -> list[Any]:
        """What the interpreter has written: a sign of life, why the scorer could not be loaded, and the outcomes."""
        self._output.seek(0)
        messages: list[Any] = []
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # the last one may be there in part
            while True:
                messages.append(pickle.load(self._output))
        return messages

    def kill(self) -> None:
        """End the interpreter, and the processes that the scorer has started there."""
        if self._killed:  # the number may be another process's by now
            return
        self._killed = True
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


#: What a fresh interpreter writes before the first outcome, in bytes: a sign of life, and that the scorer is loaded.
_STARTED, _LOADED = "started", ""
_PREFACE = len(pickle.dumps(_STARTED)) + len(pickle.dumps(_LOADED))


def work_alone() -> None:
    """What the fresh interpreter runs: scorer and jobs are read from standard input, outcomes written to the output."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the scorer prints must not get among the outcomes

    def tell(message: Any) -> None:
        pickle.dump(message, output)
        output.flush()

    parent, sys.path[:] = pickle.load(sys.stdin.buffer)
    die_with(parent)
    payload = pickle.load(sys.stdin.buffer)
    tell(_STARTED)
    try:
        scorer, jobs, problems = pickle.loads(payload)
    except Exception:  # noqa: BLE001 - importing the scorer's module may raise anything
        tell(traceback.format_exc(limit=0).strip().splitlines()[-1])
        return
    tell(_LOADED)
    for job in jobs:
        tell(judge(scorer, job, problems))
