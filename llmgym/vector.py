"""Many episodes in one environment: what ``gymnasium.make_vec`` makes of an id of ours.

Bit for bit what ``gymnasium.vector.SyncVectorEnv`` would give over as many single environments, in all three autoreset
modes, at a fraction of the cost: a step is a few array operations, and Python looks only at slots where something
happened. See :class:`llmgym.core.LanguageEnv` for the process itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from llmgym.core import (
    RENDER_MODES,
    Engine,
    EnvOptions,
    LanguageEnv,
    Observation,
    check_task,
    load_rng,
    parse_problem,
    save_rng,
)
from llmgym.errors import InvalidActionError, InvalidOptionError, unknown_name
from llmgym.process import NOT_STARTED, STOP_REASONS, Process, SlotState
from llmgym.rewards.stack import Details
from llmgym.spaces import check_text
from llmgym.tasks import Problem, Task
from llmgym.tokenizers import Tokenizer
from llmgym.transcript import Transcript, Transition

#: With ``autoreset_mode="disabled"``, the action of a slot whose episode is over and that was not reset yet.
WAIT = -1

#: Code of a stop reason -> whether the episode terminated (otherwise it was truncated).
_TERMINATES = np.array([False, *(reason.terminated for reason in STOP_REASONS)])

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class LanguageVectorEnv(VectorEnv[Observation, Any, Any]):
    """``num_envs`` episodes of a task, stepped together.

    Slot ``i`` of an environment seeded with ``s`` plays the episodes of a single environment seeded with ``s + i``.

    Args:
        task: Where problems come from, shared by all slots; or a function without arguments that makes one task, called
            once for each slot.
        num_envs: Number of slots.
        autoreset_mode: ``"next_step"``, ``"same_step"`` or ``"disabled"``, as in Gymnasium. When disabled, a finished
            slot waits: its action must be :data:`WAIT`, its observation and flags stay, and it earns nothing, until
            ``reset(options={"reset_mask": ...})``.
        render_mode: ``"ansi"``, ``"rgb_array"`` or ``None``.
        copy: Whether each observation is a copy, as in ``SyncVectorEnv``. Otherwise, with token actions, all of them
            are read-only views of the environment's own arrays: the next ``step()`` or ``reset()`` changes them. Tokens
            never move, so what an observation held of a slot stays in the next one until the slot is reset.
        options: Fields of :class:`llmgym.core.EnvOptions`.
    """

    def __init__(
        self,
        task: Task | Callable[[], Task],
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        copy: bool = True,
        **options: Any,
    ) -> None:
        if not isinstance(copy, bool):
            raise InvalidOptionError(f"Expected `copy` to be True or False, actual: {copy!r}. Write one of them.")
        if num_envs < 1:
            raise InvalidOptionError(f"Expected `num_envs` >= 1, actual: {num_envs}. Raise it.")
        if render_mode not in (None, *RENDER_MODES):
            raise unknown_name("`render_mode`", render_mode, RENDER_MODES)
        is_factory = isinstance(task, type) or not hasattr(task, "sample")
        tasks = [task() for _ in range(num_envs)] if callable(task) and is_factory else [task] * num_envs
        self.num_envs = num_envs
        self.copy = copy
        self.render_mode = render_mode
        self.autoreset_mode = _parse_autoreset_mode(autoreset_mode)
        self.metadata = dict(LanguageEnv.metadata) | {"autoreset_mode": self.autoreset_mode}
        self.engine = Engine([check_task(task) for task in tasks], EnvOptions.from_keywords(options, type(self)))
        self.single_observation_space = self.engine.observation_space()
        self.single_action_space = self.engine.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._vocab_size = self.tokenizer.vocab_size
        self._takes_tokens = self.engine.options.action_unit == "token"
        self._closes_response = self.engine.options.action_unit == "response"
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._over: list[int] = []  # slots whose episode is over, in order
        self._acts: Bools = np.ones(num_envs, dtype=np.bool_)  # the others as a mask, kept while it stays the same
        self._acting: npt.NDArray[np.int64] | None = None  # and as slots; None for all
        self._ready = False  # whether every slot has an episode
        self._final_transitions: dict[int, Transition] = {}  # of episodes that a reset in the same step overwrote
        self._token_rewards: list[dict[int, float]] = [{} for _ in range(num_envs)]

    # ------------------------------------------------------------------------------------------------ reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: Slot ``i`` is seeded with ``seed + i``; or one seed for each slot.
            options:
                - ``"reset_mask"``: ``(N,)`` bool. Only these slots are reset.
                - ``"group_size"``: Every block of that many slots gets the random generator of its first slot, and so
                  plays the same problems from now on, through automatic resets too.
                - ``"problem"``: A problem (or dict) for all slots, or a list with one (or ``None``) for each slot.

        Raises:
            InvalidOptionError: If an option is unknown or does not fit the slots.
            PromptTooLongError: If a prompt has more than ``max_prompt_tokens`` tokens.
        """
        options = dict(options or {})
        mask = self._parse_mask(options.pop("reset_mask", None))
        group_size = options.pop("group_size", None)
        problems = self._parse_problems(options.pop("problem", None))
        for name in options:
            raise unknown_name("a reset option", name, ("problem", "reset_mask", "group_size"))
        if group_size is not None:
            self._check_groups(group_size, mask)
        slots = np.flatnonzero(mask).tolist()
        for slot, slot_seed in self._parse_seeds(seed, slots):
            if group_size is None or slot % group_size == 0:
                self._rngs[slot], self._seeds[slot] = seeding.np_random(slot_seed)
        infos: dict[str, Any] = {}
        self._ready = False  # until all is done: an error in between must not leave slots that seem to go on
        if group_size is not None:
            self._draw_for_groups(problems, slots, group_size)
            self._share_rngs(slots, group_size)
        self._add_infos(infos, [(slot, self._begin(slot, problems[slot])) for slot in slots])
        self._refresh()
        return self._observations(), infos

    def _refresh(self) -> None:
        """Read off the process which slots are ready and which are over, after it was changed outside of step()."""
        process = self.engine.process
        self._ready = not np.any(process.stop_reason == NOT_STARTED)
        self._set_over(np.flatnonzero(process.stop_reason > 0).tolist())
        self._final_transitions = {}
        process.events = {}

    def _set_over(self, over: list[int]) -> None:
        if over == self._over:
            return
        self._over = over
        self._acts = np.ones(self.num_envs, dtype=np.bool_)
        self._acts[over] = False
        self._acting = np.flatnonzero(self._acts) if over else None

    def _draw_for_groups(self, problems: list[Problem | None], slots: list[int], group_size: int) -> None:
        """Draw once for each group whose slots would all draw the same."""
        tasks = self.engine.tasks
        for first in slots[::group_size]:
            group = range(first, first + group_size)
            if all(problems[slot] is None and tasks[slot] is tasks[first] for slot in group):
                problems[first : first + group_size] = [tasks[first].sample(self._rng(first))] * group_size

    def _share_rngs(self, slots: list[int], group_size: int) -> None:
        """Give each slot the state of the random generator of its group's first."""
        for slot in slots:
            first = slot - slot % group_size
            if slot == first:
                state = save_rng(self._rng(first))
                continue
            rng = self._rngs[slot]
            if rng is None or type(rng.bit_generator).__name__ != state[0]:
                self._rngs[slot] = load_rng(state)
            else:
                rng.bit_generator.state = state[1]  # a new generator would cost several times as much
            self._seeds[slot] = self._seeds[first]

    def _begin(self, slot: int, problem: Problem | None = None) -> dict[str, Any]:
        self._token_rewards[slot] = {}
        return self.engine.begin(slot, self._rng(slot), problem)

    def _rng(self, slot: int) -> np.random.Generator:
        rng = self._rngs[slot]
        if rng is None:
            rng, self._seeds[slot] = seeding.np_random()
            self._rngs[slot] = rng
        return rng

    def _parse_mask(self, mask: Any) -> Bools:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        valid = (
            isinstance(mask, np.ndarray) and mask.shape == (self.num_envs,) and mask.dtype == np.bool_ and mask.any()
        )
        if not valid:
            raise InvalidOptionError(
                f'Expected options["reset_mask"] to be a bool array of shape ({self.num_envs},) with at least one '
                f"True, actual: {mask!r}. Write e.g. `terminated | truncated`."
            )
        return np.asarray(mask, dtype=np.bool_)

    def _parse_problems(self, problem: Any) -> list[Problem | None]:
        if not isinstance(problem, (list, tuple)):
            return [parse_problem(problem)] * self.num_envs
        if len(problem) != self.num_envs:
            raise InvalidOptionError(
                f'Expected options["problem"] to be one problem or a list of {self.num_envs}, actual: a list of '
                f"{len(problem)}. Use None for slots that draw their own."
            )
        return [parse_problem(entry) for entry in problem]

    def _check_groups(self, group_size: Any, mask: Bools) -> None:
        if (
            isinstance(group_size, bool)
            or not isinstance(group_size, int)
            or group_size < 1
            or self.num_envs % group_size
        ):
            raise InvalidOptionError(
                f'Expected options["group_size"] to be an int that divides num_envs={self.num_envs}, actual: '
                f"{group_size!r}. Choose a divisor."
            )
        counts = mask.reshape(-1, group_size).sum(axis=1)
        if np.any((counts != 0) & (counts != group_size)):
            raise InvalidOptionError(
                f'Expected options["reset_mask"] to hold whole groups of {group_size} slots, actual: parts of groups '
                f"{np.flatnonzero((counts != 0) & (counts != group_size)).tolist()}. Reset whole groups."
            )

    def _parse_seeds(self, seed: Any, slots: list[int]) -> list[tuple[int, int]]:
        if seed is None:
            return []
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != self.num_envs:
            raise InvalidOptionError(
                f"Expected one seed or a list of {self.num_envs} of them, actual: {len(seeds)}. Use None to keep one."
            )
        return [(slot, int(seeds[slot])) for slot in slots if seeds[slot] is not None]

    # ------------------------------------------------------------------------------------------------ step

    def step(self, actions: Any) -> tuple[Observation, Floats, Bools, Bools, dict[str, Any]]:
        """Append an action to each slot.

        Args:
            actions: ``(N,)`` int with token actions, otherwise a sequence of N texts.

        Returns:
            Observations, ``(N,)`` float64 rewards, ``(N,)`` bool terminated, ``(N,)`` bool truncated, infos, where each
            key of ``infos`` comes with a mask ``_key`` of the slots that it concerns. The keys are those of
            :meth:`llmgym.core.LanguageEnv.step`, and of ``reset`` where a slot was reset; a slot that waits has none.

        Raises:
            InvalidActionError: If an action is not in the action space, or a slot has no episode to continue.
        """
        if not self._ready:
            raise InvalidActionError(
                "Expected reset() before the first step(), actual: slots without an episode. Call reset() for all."
            )
        over = self._over  # slots that take no action now
        acted = self._acts.copy()
        unused = self._append_tokens(actions) if self._takes_tokens else self._append_texts(actions)

        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        components = {name: np.zeros(self.num_envs, dtype=np.float64) for name in self.engine.rewards.names}
        ended, details = self._settle(rewards, components, terminated, truncated)
        if self.render_mode is not None:
            self._record(rewards, acted)

        same_step = self.autoreset_mode == AutoresetMode.SAME_STEP
        final: dict[str, Any] = {}
        if same_step and ended:
            final = self._final_infos(ended, components, details, unused)
            acted[ended] = False
        infos = self._running_infos(components, acted)
        if not same_step:
            add_details(infos, details, self.num_envs)
            self._add_infos(infos, [(slot, {"stop_reason": self._stop_reason(slot)}) for slot in ended])
        if unused:
            self._add_infos(infos, [(slot, {"unused_text": text}) for slot, text in unused.items() if acted[slot]])
        infos.update(final)

        self._ready = False  # a prompt that is too long can stop an automatic reset halfway
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._set_over(ended)
            self._add_infos(infos, [(slot, self._begin(slot)) for slot in over])
        elif same_step:
            self._add_infos(infos, [(slot, self._begin(slot)) for slot in ended])
        else:
            if over:
                self._keep_flags(terminated, truncated)
            self._set_over(sorted([*over, *ended]) if ended else over)
        self._ready = True
        return self._observations(), rewards, terminated, truncated, infos

    def _append_tokens(self, actions: Any) -> dict[int, str]:
        process = self.engine.process
        tokens = np.asarray(actions)
        if tokens.shape != (self.num_envs,) or tokens.dtype.kind not in "iu":
            raise InvalidActionError(
                f"Expected actions to be an int array of shape ({self.num_envs},), actual: {tokens.dtype} of shape "
                f"{tokens.shape}. Pass the id of a token for each slot."
            )
        slots = self._acting
        if slots is not None:
            self._check_waiting(tokens)
            tokens = tokens[slots]
        if tokens.dtype != np.int64:
            tokens = tokens.astype(np.int64)
        # As an unsigned number, a negative id is above every bound: one comparison instead of two.
        if tokens.size and np.maximum.reduce(tokens.view(np.uint64)) >= self._vocab_size:
            self._refuse_tokens(tokens, slots)
        process.append_tokens(tokens, slots)
        return {}

    def _append_texts(self, actions: Any) -> dict[int, str]:
        process = self.engine.process
        if isinstance(actions, str) or len(actions) != self.num_envs:
            raise InvalidActionError(
                f"Expected actions to be a sequence of {self.num_envs} texts, actual: {actions!r}. Pass one a slot."
            )
        if self._over:
            self._check_waiting(actions)
        acting = np.flatnonzero(self._acts).tolist()
        for slot in acting:  # all are checked before the first is written
            complaint = check_text(actions[slot], f"the action of slot {slot}")
            if complaint is not None:
                raise InvalidActionError(complaint)
        process.events = {}
        unused = {}
        for slot in acting:
            rest = process.append_text(slot, actions[slot], self._closes_response)
            if rest:
                unused[slot] = rest
        return unused

    def _check_waiting(self, actions: Any) -> None:
        """When nothing is reset automatically, a finished slot takes no action but WAIT."""
        if self.autoreset_mode != AutoresetMode.DISABLED:
            return
        are_numbers = isinstance(actions, np.ndarray) and actions.dtype.kind in "iu"
        if are_numbers and np.count_nonzero((actions == WAIT) > self._acts) == len(self._over):
            return
        for slot in self._over:
            action = actions[slot].item() if isinstance(actions[slot], np.generic) else actions[slot]
            if action != WAIT or isinstance(action, bool):
                reason = self.engine.process.stopped(slot)
                raise InvalidActionError(
                    f"Expected the action {WAIT} (llmgym.WAIT) in slot {slot}, whose episode ended by "
                    f"{reason.value if reason else None!r}, actual: {action!r}. Wait, or reset the slot: "
                    'reset(options={"reset_mask": ...}).'
                )

    def _refuse_tokens(self, tokens: npt.NDArray[Any], slots: npt.NDArray[np.int64] | None) -> None:
        wrong = int(np.flatnonzero((tokens < 0) | (tokens >= self.tokenizer.vocab_size))[0])
        slot = wrong if slots is None else int(slots[wrong])
        hint = "Its episode goes on: only finished slots wait. " if tokens[wrong] == WAIT else ""
        raise InvalidActionError(
            f"Expected an action in [0, {self.tokenizer.vocab_size}) (the vocabulary of {self.tokenizer.name!r}), "
            f"actual: {int(tokens[wrong])} in slot {slot}. {hint}Choose actions with the environment's tokenizer."
        )

    def _settle(
        self, rewards: Floats, components: dict[str, Floats], terminated: Bools, truncated: Bools
    ) -> tuple[list[int], dict[int, Details]]:
        """Pay what is due and set the flags, slot by slot where something happened.

        Returns:
            The slots that ended, and by slot what the rewards say of its episode.
        """
        engine, process = self.engine, self.engine.process
        self._final_transitions = {}
        details: dict[int, Details] = {}
        if not process.events:
            return [], details
        ended: list[int] = []
        paid: list[tuple[int, Transition]] = []
        for slot in sorted(process.events):
            if process.stop_reason_at[slot] > 0:
                ended.append(slot)
            if components and engine.earns(slot):
                paid.append((slot, engine.transition(slot)))
        if ended:
            terminated[ended] = _TERMINATES[process.stop_reason[ended]]
            truncated[ended] = ~terminated[ended]
        if paid:
            all_paid = engine.rewards.pay_batch([transition for _, transition in paid])
            slots = [slot for slot, _ in paid]
            rewards[slots] = [math.fsum(parts.values()) for parts, _ in all_paid]
            for name, values in components.items():
                values[slots] = [parts[name] for parts, _ in all_paid]
            details = {slot: said for slot, (_, said) in zip(slots, all_paid, strict=True) if said}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended:  # a reset is about to overwrite what it tells of
            known = dict(paid)
            self._final_transitions = {slot: known.get(slot) or engine.transition(slot) for slot in ended}
        return ended, details

    def _running_infos(self, components: dict[str, Floats], acted: Bools) -> dict[str, Any]:
        """The infos of slots whose action was the only thing that happened, built at once for all of them."""
        if not np.count_nonzero(acted):
            return {}
        parts: dict[str, Any] = {}
        for name, values in components.items():
            parts[name], parts[f"_{name}"] = values, acted.copy()
        return {
            "n_reasoning_steps": self.engine.process.n_steps * acted,  # 0 where a slot has nothing to say
            "_n_reasoning_steps": acted.copy(),
            "reward_components": parts,
            "_reward_components": acted.copy(),
        }

    def _add_infos(self, infos: dict[str, Any], entries: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Add the infos of single slots. Gymnasium's ``_add_info`` makes the arrays; from then on they are just set."""
        columns: dict[str, tuple[list[int], list[Any]]] = {}
        for slot, info in entries:
            for key, value in info.items():
                column = columns.get(key)
                if column is not None:
                    column[0].append(slot)
                    column[1].append(value)
                    continue
                self._add_info(infos, {key: value}, slot)
                if not isinstance(value, dict):  # that is a tree of arrays
                    columns[key] = [], []
        for key, (slots, values) in columns.items():
            array, mask = infos[key], infos[f"_{key}"]
            mask[slots] = True
            if array.dtype != np.object_:
                array[slots] = values
                continue
            for slot, value in zip(slots, values, strict=True):  # a sequence is one object, not several
                array[slot] = value

    def _final_infos(
        self,
        ended: list[int],
        components: dict[str, Floats],
        details: dict[int, Details],
        unused: dict[int, str],
    ) -> dict[str, Any]:
        """``final_obs`` and ``final_info`` of the episodes that ended, before their slots are reset."""
        here = np.zeros(self.num_envs, dtype=np.bool_)
        here[ended] = True
        info = self._running_infos({name: np.where(here, values, 0.0) for name, values in components.items()}, here)
        for values in components.values():
            values[ended] = 0.0  # told here, not among the infos of slots that go on
        info["stop_reason"], info["_stop_reason"] = self._objects(ended, map(self._stop_reason, ended)), here.copy()
        self._add_infos(info, [(slot, {"unused_text": unused[slot]}) for slot in ended if slot in unused])
        if details:
            add_details(info, details, self.num_envs)
        final_obs = self._objects(ended, self._observations_of(ended))
        return {"final_obs": final_obs, "_final_obs": here.copy(), "final_info": info, "_final_info": here}

    def _objects(self, slots: list[int], values: Iterable[Any]) -> npt.NDArray[np.object_]:
        """``(N,)`` objects: ``None``, but for some slots."""
        objects = np.full(self.num_envs, None, dtype=np.object_)
        for slot, value in zip(slots, values, strict=True):
            objects[slot] = value
        return objects

    def _stop_reason(self, slot: int) -> str:
        return STOP_REASONS[self.engine.process.stop_reason_at[slot] - 1].value

    def _keep_flags(self, terminated: Bools, truncated: Bools) -> None:
        """Set the flags of all slots whose episode is over, not of those alone where it ended just now."""
        code = self.engine.process.stop_reason
        terminated[:] = _TERMINATES[code]
        np.greater(code > 0, terminated, out=truncated)

    def _observations(self) -> Observation:
        process = self.engine.process
        if self._takes_tokens:
            if self.copy:
                return {"attention_mask": process.written.copy(), "input_ids": process.ids.copy()}
            return {"attention_mask": _read_only(process.written), "input_ids": _read_only(process.ids)}
        return tuple(process.text(slot) for slot in range(self.num_envs))

    def _observations_of(self, slots: list[int]) -> list[Observation]:
        """The observation of each of some slots, as single environments give them; their rows are a fresh array's."""
        process = self.engine.process
        if self._takes_tokens:
            rows = zip(process.written[slots], process.ids[slots], strict=True)
            return [{"attention_mask": written, "input_ids": ids} for written, ids in rows]
        return [process.text(slot) for slot in slots]

    def close_extras(self, **kwargs: Any) -> None:
        """End the reward workers, where there are any."""
        self.engine.rewards.close()

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def process(self) -> Process:
        """The state machine of all slots."""
        return self.engine.process

    @property
    def tokenizer(self) -> Tokenizer:
        """Between text and ids."""
        return self.engine.tokenizer

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Where each slot's problems come from."""
        return self.engine.tasks

    def transcripts(self, slots: Iterable[int] | None = None) -> list[Transcript]:
        """The states of some slots (all of them by default) as text, at this moment."""
        return [self.process.transcript(slot) for slot in (range(self.num_envs) if slots is None else slots)]

    def action_masks(self) -> Bools:
        """``(N, V)`` bool: the tokens that keep each response to the ``grammar``; all of them where there is none.

        All of them, too, where an episode is over: nothing is chosen there.

        Raises:
            InvalidOptionError: If actions are texts.
            InvalidActionError: If there is a grammar, and a slot has no episode or a response that does not keep to it.
        """
        return self.engine.action_masks()

    @property
    def transitions(self) -> list[tuple[int, Transition]]:
        """``(slot, transition)`` for each slot where the last ``step()`` closed a reasoning step or ended an episode.

        With ``autoreset_mode="same_step"`` they tell of the episode that ended, not of the one that began.
        """
        slots = sorted({*self._final_transitions, *self.process.events})
        return [(slot, self._final_transitions.get(slot) or self.engine.transition(slot)) for slot in slots]

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each slot's random generator, as in ``SyncVectorEnv``."""
        return tuple(self._rng(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """Each slot's last seed."""
        return tuple(self._seeds)

    # ------------------------------------------------------------------------------------------------ state

    def clone_state(self, slots: Iterable[int] | None = None) -> tuple[SlotState, ...]:
        """The states of some slots (all of them by default), random generators included.

        A state can be restored in any slot of an environment with the same options, single ones included.
        """
        chosen = range(self.num_envs) if slots is None else slots
        return tuple(
            dataclasses.replace(
                self.process.save(slot),
                rng=save_rng(self._rng(slot)),
                token_rewards=tuple(self._token_rewards[slot].items()),
            )
            for slot in chosen
        )

    def restore_state(self, states: Sequence[SlotState], slots: Iterable[int] | None = None) -> None:
        """Put states into slots (all of them by default), one each.

        Raises:
            InvalidOptionError: If there are not as many states as slots, or one comes from other rules.
        """
        chosen = list(range(self.num_envs) if slots is None else slots)
        if len(states) != len(chosen):
            raise InvalidOptionError(
                f"Expected one state for each of {len(chosen)} slots, actual: {len(states)}. Name them with `slots`."
            )
        self._ready = False
        for slot, state in zip(chosen, states, strict=True):
            self.process.load(slot, state)
            if state.rng is not None:
                self._rngs[slot] = load_rng(state.rng)
            self._token_rewards[slot] = dict(state.token_rewards)
        self._refresh()

    # ------------------------------------------------------------------------------------------------ rendering

    def _record(self, rewards: Floats, acted: Bools) -> None:
        for slot in np.flatnonzero(acted & (rewards != 0)).tolist():
            paid, index = self._token_rewards[slot], int(self.process.length[slot]) - 1
            paid[index] = paid.get(index, 0.0) + float(rewards[slot])

    def render(self) -> tuple[Any, ...] | None:
        """One text (``"ansi"``) or image (``"rgb_array"``) for each slot; ``"human"`` prints the texts."""
        from llmgym import rendering

        traces = [self.process.trace(slot, paid) for slot, paid in enumerate(self._token_rewards)]
        if self.render_mode == "rgb_array":
            return tuple(rendering.render_rgb(trace) for trace in traces)
        frames = tuple(rendering.render_ansi(trace) for trace in traces)
        if self.render_mode == "ansi":
            return frames
        print(*frames, sep="\n\n")  # noqa: T201
        return None


def add_details(infos: dict[str, Any], details: Mapping[int, Details], num_envs: int) -> None:
    """Write ``{slot: {reward: {name: value}}}`` to ``infos["reward_details"]``, as Gymnasium's ``_add_info`` would.

    That makes one array for each name, of the type that the first value has, and a mask beside each; done here at once
    for all slots, since it would cost as much as the judgement.
    """
    for slot, rewards in details.items():
        by_reward = _marked(infos, "reward_details", slot, num_envs)
        for reward, said in rewards.items():
            by_name = _marked(by_reward, reward, slot, num_envs)
            for name, value in said.items():
                mask = by_name.get(f"_{name}")
                if mask is None:
                    is_number = type(value) in (int, float, bool)
                    by_name[name] = np.zeros(num_envs, type(value)) if is_number else np.full(num_envs, None, object)
                    mask = by_name[f"_{name}"] = np.zeros(num_envs, dtype=np.bool_)
                by_name[name][slot] = value
                mask[slot] = True


def _marked(infos: dict[str, Any], key: str, slot: int, num_envs: int) -> dict[str, Any]:
    """The dict under a key, made if need be, once the mask beside it says that it tells of a slot."""
    mask = infos.get(f"_{key}")
    if mask is None:
        infos[key] = {}
        mask = infos[f"_{key}"] = np.zeros(num_envs, dtype=np.bool_)
    mask[slot] = True
    inner: dict[str, Any] = infos[key]
    return inner


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _parse_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Gymnasium's enum from its value (``"NextStep"``) or from a name in any case (``"next_step"``)."""
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if str(mode).lower() in (known.name.lower(), known.value.lower()):
            return known
    raise unknown_name("`autoreset_mode`", mode, [known.name.lower() for known in AutoresetMode])
