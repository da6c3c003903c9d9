"""What an agent of the benchmark is given: environments to learn in, which count the steps taken in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from llmgym.agents.rollouts import check_spaces
from llmgym.envs.diagnostics import Diagnostic
from llmgym.vector import WAIT


class Challenge:
    """A diagnostic in a size, to be trained on.

    Args:
        diagnostic: Which one.
        size: In which size.
        on_progress: Called by :meth:`progress`; ``None``: nobody looks.
        start: The attribute of that name.
        agent_options: Likewise.

    Attributes:
        diagnostic: Which one.
        size: In which size.
        n_timesteps: Environment steps taken so far in all environments that :meth:`make_vec` made.
        vocab_size: Number of tokens that can be chosen.
        width: Tokens of an observation: prompt and response together.
        start: Folder or hub name of the model that language models begin with, whose tokenizer the environment has;
            ``None``: they begin with random weights.
        agent_options: Options of the package's own agents that differ from theirs.

    Example:
        >>> from llmgym.envs.diagnostics import DIAGNOSTICS
        >>> challenge = Challenge(DIAGNOSTICS["copy"], "small")
        >>> envs = challenge.make_vec(4)
        >>> _ = envs.reset(seed=0)
        >>> _ = envs.step(np.full(4, 5))
        >>> challenge.n_timesteps, challenge.vocab_size, challenge.width
        (4, 8, 6)
    """

    def __init__(
        self,
        diagnostic: Diagnostic,
        size: str,
        on_progress: Callable[[], None] | None = None,
        *,
        start: str | None = None,
        agent_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.diagnostic = diagnostic
        self.size = size
        self.start = start
        self.agent_options = dict(agent_options or {})
        self.n_timesteps = 0
        self._on_progress = on_progress
        envs = diagnostic.make_vec(size, 1)
        self.width, self.vocab_size = check_spaces(envs)
        envs.close()

    def make_vec(self, num_envs: int, *, autoreset_mode: str = "disabled", **options: Any) -> VectorEnv[Any, Any, Any]:
        """A native vector environment that counts its steps.

        Args:
            num_envs: Slots.
            autoreset_mode: ``"disabled"`` (a slot whose episode ended waits: its action is ``llmgym.WAIT``, which
                counts for nothing), ``"same_step"`` or ``"next_step"``.
            **options: Further keyword arguments of the environment.
        """
        envs = self.diagnostic.make_vec(self.size, num_envs, autoreset_mode=autoreset_mode, **options)
        return CountedEnvs(envs, self._count)

    def progress(self) -> None:
        """Say that the weights are those of a policy now: where an evaluation is due, it is played by ``agent.act``.

        To be called after each update, and once before the first; a call costs nothing where none is due.
        """
        if self._on_progress is not None:
            self._on_progress()

    def _count(self, n: int) -> None:
        self.n_timesteps += n


class CountedEnvs(VectorWrapper):
    """Tells of the environment steps taken: one for each slot that acted.

    Args:
        envs: A vector environment.
        count: Given the number of slots that acted, in each step.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], count: Callable[[int], None]) -> None:
        super().__init__(envs)
        self._count = count
        self._resets_next = envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        self._ended = np.zeros(envs.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A reset, after which no slot is about to be reset by a step."""
        result = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # one seed for each slot too
        self._ended[(options or {}).get("reset_mask", slice(None))] = False
        return result

    def step(
        self, actions: Any
    ) -> tuple[Any, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """A step, counted."""
        acted = np.asarray(actions) != WAIT
        if self._resets_next:  # an action after an end resets the slot, and chooses no token
            acted &= ~self._ended
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._ended = terminated | truncated
        self._count(int(np.count_nonzero(acted)))
        return observations, rewards, terminated, truncated, infos
