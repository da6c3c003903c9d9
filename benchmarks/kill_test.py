"""Kill a training at random moments, resume it each time, and compare it with one that was never killed.

    python benchmarks/kill_test.py                                  # GRPO, 50 kills: about ten minutes on one idle core
    python benchmarks/kill_test.py --algorithm ppo --kills 100

The shipped model learns on ``llmgym/MathReason-v0``, two epochs of two minibatches in each iteration, once in one go
and once with SIGKILL at random moments: while it loads, in the middle of a roll-out, between the optimiser steps of
its epochs, while it writes a checkpoint. Each life is a process of its own that knows nothing but the run's folder.
Both runs have to end with the same weights, the same optimiser and the same curves, bit for bit.

Exit code 1 if they do not, or if the run was over before all kills were spent.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from llmgym.agents.agent import Agent
from llmgym.agents.checkpoints import checkpoint_folder, list_checkpoints, read_settings, read_state
from llmgym.agents.metrics import read_metrics
from llmgym.agents.training import algorithm_class

#: What takes time and differs from run to run, and the name of the run.
NOT_COMPARED = ("seconds", "run")

#: Tokens that an iteration of 24 responses has, about.
TOKENS = 300

#: Options of both algorithms: small enough for a life of a second, several epochs and minibatches.
OPTIONS: dict[str, Any] = {
    "n_epochs": 2, "n_minibatches": 2, "kl_coef": 0.02, "learning_rate": 1e-3, "checkpoint_every": 2,
}  # fmt: skip
OWN_OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"group_size": 4, "problems_per_iteration": 6},
    "ppo": {"problems_per_iteration": 6, "responses_per_problem": 4, "kl_target": 1.0, "critic": "head"},
}


@dataclass(frozen=True)
class KillTest:
    """What to run.

    Attributes:
        algorithm: Who learns.
        kills: How often the run is killed.
        iterations: About how many iterations the run has.
        seed: Of the training, and of the moments of the kills.
        output: Folder for the two runs. None: a temporary one.
        n_threads: CPU threads of a process; another number rounds otherwise.
    """

    algorithm: Literal["grpo", "ppo"] = "grpo"
    kills: int = 50
    iterations: int = 40
    seed: int = 0
    output: Path | None = None
    n_threads: int = 1


@dataclass
class Lives:
    """What became of the run that was killed.

    Attributes:
        killed: Moment of the kill -> how often.
        lost: Iterations that had to be played again.
        finished: Whether a life ended by itself before it was killed.
    """

    killed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    finished: bool = False


# -- a life -----------------------------------------------------------------------------------------------------------


def live(algorithm: str, run_dir: Path, iterations: int, seed: int) -> None:
    """Begin the run, or go on with it, until it is over; tell standard output what is going on."""
    logging.disable_progress_bar()
    agent_class = algorithm_class(algorithm)
    if list_checkpoints(run_dir):
        agent = agent_class.load(run_dir)
        tell_moments(agent)
        agent.learn(progress_bar=False)
    else:
        options = {**OPTIONS, **OWN_OPTIONS[algorithm], "seed": seed, "run_dir": str(run_dir)}
        agent = agent_class("tiny-reasoner", "llmgym/MathReason-v0", env_kwargs={"max_new_tokens": 32}, **options)
        tell_moments(agent)
        agent.learn(total_timesteps=iterations * TOKENS, progress_bar=False)


def tell_moments(agent: Agent) -> None:
    """Write the iteration and the name of a moment to standard output whenever one begins. It changes no number."""

    def tell(moment: str) -> None:
        os.write(1, f"{agent.n_iterations} {moment}\n".encode())

    def told(owner: Any, name: str, moment: str) -> None:
        method = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            tell(moment)
            return method(*args, **kwargs)

        setattr(owner, name, wrapped)

    told(agent, "collect", "in the roll-out")
    told(agent, "update", "in the epochs, before the first step")
    told(agent.optimizer, "apply", "in the epochs, at a step or after it")
    told(agent.run, "write", "while logging")
    told(agent, "state_dict", "while writing a checkpoint")


class Life:
    """A process that goes on with the run."""

    def __init__(self, test: KillTest, run_dir: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(test.n_threads), "PYTHONWARNINGS": "ignore"}
        words = [test.algorithm, str(run_dir), str(test.iterations), str(test.seed)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--live", *words], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.moment = "while starting"
        self.iteration = -1
        self.seconds: list[float] = []  # of its iterations
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        last = math.nan
        for line in self.process.stdout:
            iteration, _, moment = line.strip().partition(" ")
            with self._news:
                if moment == "in the roll-out":
                    now = time.monotonic()
                    self.seconds += [] if math.isnan(last) else [now - last]
                    last = now
                    self.iteration = int(iteration)
                self.moment = moment
                self._news.notify()
        with self._news:
            self.iteration = sys.maxsize
            self._news.notify()

    def wait_for(self, iteration: int) -> None:
        """Wait until it has begun with an iteration, or is over."""
        with self._news:
            self._news.wait_for(lambda: self.iteration >= iteration)

    def kill(self) -> bool:
        """Kill it; ``False`` if it was over already."""
        self.process.send_signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait()
        self._reader.join()
        return code


# -- the two runs -----------------------------------------------------------------------------------------------------


def unbroken(test: KillTest, run_dir: Path) -> float:
    """The run that is never killed; the seconds of its training."""
    if (code := Life(test, run_dir).wait()) != 0:
        raise SystemExit(f"The unbroken run failed with exit code {code}.")
    return float(read_metrics(run_dir)[-1]["seconds"])


def killed(test: KillTest, run_dir: Path, seconds: float, n_iterations: int, console: Console) -> Lives:
    """The run that is killed ``test.kills`` times, at moments that are spread evenly over its iterations."""
    lives, rng, started = Lives(), random.Random(test.seed), time.monotonic()
    typical = [seconds / n_iterations]  # seconds of the last iterations, so that a moment within one can be met
    for moment in sorted(rng.uniform(0.0, n_iterations - 1.0) for _ in range(test.kills)):
        life = Life(test, run_dir)
        if rng.random() < 0.1:
            time.sleep(rng.uniform(0.0, 4.0))  # while it starts, imports, loads
        else:
            life.wait_for(int(moment))
            time.sleep(moment % 1.0 * median(typical))
        where, reached = life.moment, life.iteration
        if not life.kill():
            lives.finished = True
            return lives
        typical = [*typical, *life.seconds][-20:]
        lives.killed[where] += 1
        lives.lost += max(0, reached - newest_iteration(run_dir))
        place = f"iteration {reached if reached >= 0 else '-':>4} of {n_iterations}"
        clock = f"({time.monotonic() - started:.0f} s)"
        console.print(f"kill {sum(lives.killed.values()):3}  {place}  {where}  {clock}", highlight=False)
    if (code := Life(test, run_dir).wait()) != 0:
        raise SystemExit(f"The last life failed with exit code {code}.")
    return lives


def newest_iteration(run_dir: Path) -> int:
    """The iteration of the newest checkpoint; 0 if there is none."""
    checkpoints = list_checkpoints(run_dir)
    return int(read_settings(checkpoints[0])["n_iterations"]) if checkpoints else 0


# -- what has to be equal ---------------------------------------------------------------------------------------------


def fingerprints(run_dir: Path) -> dict[str, str]:
    """SHA-256 of all that the last checkpoint and the curves hold, times left out."""
    folder = checkpoint_folder(run_dir, newest_iteration(run_dir))
    state = read_state(folder)
    curves = [
        {name: value for name, value in row.items() if name not in NOT_COMPARED and not name.startswith("time/")}
        for row in read_metrics(run_dir)
    ]
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {
        "final weights": weights,
        "optimiser, reference, critic": digest(state["parts"]),
        "random generators": digest([state["rng"], state["generator"]]),
        f"curves ({len(curves)} lines)": digest(curves),
    }


def digest(value: Any) -> str:
    """SHA-256 of tensors and plain values."""
    hashed = hashlib.sha256()
    for piece in pieces(value):
        hashed.update(piece)
    return hashed.hexdigest()


def pieces(value: Any) -> Iterator[bytes]:
    """Tensors and plain values as bytes, in one order."""
    if isinstance(value, torch.Tensor):
        yield repr((value.dtype, tuple(value.shape))).encode()
        yield value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from pieces(value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from pieces(entry)
    else:
        yield repr(value).encode()


def main(test: KillTest, output: Path) -> bool:
    """Both runs and the table; whether all is equal."""
    console = Console()
    straight, broken = output / f"{test.algorithm}_unbroken", output / f"{test.algorithm}_killed"
    for folder in (straight, broken):
        if folder.exists():
            raise SystemExit(f"Expected no earlier run, actual: {folder}. Delete it, or name another --output.")
    seconds = unbroken(test, straight)
    n_iterations = newest_iteration(straight)
    console.print(f"unbroken: {n_iterations} iterations in {seconds:.0f} s of training", highlight=False)
    lives = killed(test, broken, seconds, n_iterations, console)
    n_kills = sum(lives.killed.values())

    moments = Table("killed", "times", title=f"{test.algorithm}: {n_kills} kills, {lives.lost} iterations lost")
    for moment, times in lives.killed.most_common():
        moments.add_row(moment, str(times))
    console.print(moments)
    if lives.finished:
        console.print(f"Only {n_kills} of {test.kills} kills: the run was over. Raise --iterations.")
        return False
    expected, actual = fingerprints(straight), fingerprints(broken)
    table = Table("SHA-256", "never killed", f"killed {n_kills} times", "equal")
    for (name, one), (_, other) in zip(expected.items(), actual.items(), strict=True):
        table.add_row(name, one[:16], other[:16], "yes" if one == other else "NO")
    console.print(table)
    return list(expected.items()) == list(actual.items())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--live"]:
        live(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        chosen = tyro.cli(KillTest)
        with TemporaryDirectory() as temporary:
            equal = main(chosen, chosen.output or Path(temporary))
        sys.exit(0 if equal else 1)
