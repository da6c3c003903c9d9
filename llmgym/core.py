"""The single environment, and the engine that it shares with the vector environment.

The engine joins what an episode needs: problems from a task, a prompt, the process, the reward stack. The two
environments are thin shells around it; rules live in :mod:`llmgym.process`, rewards in :mod:`llmgym.rewards`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from llmgym.errors import InvalidActionError, InvalidOptionError, PromptTooLongError, unknown_name
from llmgym.grammar import Bools, load_grammar
from llmgym.process import NOT_STARTED, RUNNING, Process, ProcessRules, SlotState
from llmgym.prompts import check_template, encode_prompt
from llmgym.rewards import RewardStack
from llmgym.spaces import TextSpace, check_text
from llmgym.tasks import Problem, Task
from llmgym.tokenizers import TINY_REASONER, Tokenizer, load_tokenizer
from llmgym.transcript import TokenTrace, Transcript, Transition, count_steps

ActionUnit = Literal["token", "step", "response"]
ACTION_UNITS: tuple[str, ...] = ("token", "step", "response")

#: ``{"input_ids": (W,) int32, "attention_mask": (W,) int8}`` with token actions, the text of the transcript otherwise.
Observation: TypeAlias = Any

RENDER_MODES = ("ansi", "human", "rgb_array")


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """Keyword arguments that every environment takes. All are plain values, so that an ``EnvSpec`` is JSON.

    Attributes:
        action_unit: What an action is: the next ``"token"`` (an id), the next reasoning ``"step"`` (a text), or the
            whole ``"response"`` (a text, closed by an end token).
        tokenizer: ``"tiny-reasoner"``, a folder with a ``tokenizer.json``, such a file, or a name on the hub.
        max_prompt_tokens: Longest prompt, in tokens. A longer one raises an error.
        max_new_tokens: Tokens that the agent may write, the end token included, before the episode is truncated.
        max_steps: Reasoning steps that it may close before the episode is truncated; ``None`` for no limit.
        stop_strings: Texts that end the agent's turn as the end token does.
        step_delimiter: Text that closes a reasoning step.
        rewards: Name of a reward -> its weight, or ``{"weight": ..., **arguments}``. ``None`` for
            ``{"correctness": 1.0}``; ``{}`` for the bare process.
        prompt_template: A name (``"plain"``, ``"r1"``), a text with ``{question}`` in it, or ``"chat"`` for the
            tokenizer's chat template.
        system_prompt: First message of a chat; only with ``prompt_template="chat"``.
        reveal_reference_answer: Whether ``reset`` puts the reference answer into its info.
        reward_workers: Processes that judge the transitions of a step between them, for ``rewards`` that take long; 0:
            the environment's own. The rewards are the same; ``close()`` ends the workers.
        grammar: Regular expression of a whole response, for ``action_masks()`` with token actions
            (see :mod:`llmgym.grammar`). ``"[0-9]+"``: digits, then the end token. ``None``: every token is allowed.
            It bounds nothing by itself.
    """

    action_unit: ActionUnit = "token"
    tokenizer: str | os.PathLike[str] | Tokenizer = TINY_REASONER
    max_prompt_tokens: int = 128
    max_new_tokens: int = 128
    max_steps: int | None = None
    stop_strings: tuple[str, ...] = ()
    step_delimiter: str = "\n"
    rewards: Mapping[str, float | Mapping[str, Any]] | None = None
    prompt_template: str = "plain"
    system_prompt: str | None = None
    reveal_reference_answer: bool = False
    reward_workers: int = 0
    grammar: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is loaded."""
        if self.action_unit not in ACTION_UNITS:
            raise unknown_name("`action_unit`", self.action_unit, ACTION_UNITS)
        budgets = {"max_prompt_tokens": self.max_prompt_tokens, "max_new_tokens": self.max_new_tokens}
        if self.max_steps is not None:
            budgets["max_steps"] = self.max_steps
        for name, value in budgets.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidOptionError(f"Expected `{name}` to be an int >= 1, actual: {value!r}. Raise it.")
        if isinstance(self.reward_workers, bool) or not isinstance(self.reward_workers, int) or self.reward_workers < 0:
            raise InvalidOptionError(
                f"Expected `reward_workers` to be an int >= 0, actual: {self.reward_workers!r}. Pass 0 for none."
            )
        if not isinstance(self.reveal_reference_answer, bool):
            raise InvalidOptionError(
                f"Expected `reveal_reference_answer` to be True or False, actual: {self.reveal_reference_answer!r}. "
                "Write one of them."
            )
        if not isinstance(self.grammar, str | None):
            raise InvalidOptionError(
                f"Expected `grammar` to be a text, actual: {self.grammar!r}. Write a regular expression."
            )
        if self.grammar is not None and self.action_unit != "token":
            raise InvalidOptionError(
                f'Expected a `grammar` with action_unit="token" only (it chooses among tokens), actual: '
                f"{self.action_unit!r}. Leave it out, or act in tokens."
            )
        stop_strings: Any = self.stop_strings
        if isinstance(stop_strings, str) or not isinstance(stop_strings, Sequence):
            raise InvalidOptionError(
                f"Expected `stop_strings` to be a list of texts, actual: {stop_strings!r}. "
                f"Write [{str(stop_strings)!r}]."
            )
        object.__setattr__(self, "stop_strings", tuple(stop_strings))  # JSON has lists only
        for name, text in [("stop_strings", text) for text in self.stop_strings] + [
            ("step_delimiter", self.step_delimiter)
        ]:
            if not isinstance(text, str) or not text:
                raise InvalidOptionError(f"Expected `{name}` to hold no empty text, actual: {text!r}. Write the text.")
        check_template(self.prompt_template, self.system_prompt)

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any], environment: type) -> EnvOptions:
        """Options from keyword arguments.

        Args:
            keywords: What the environment was given beyond its own arguments.
            environment: Its class, whose own arguments an error lists too.

        Raises:
            InvalidOptionError: If one is unknown.
        """
        known = [option.name for option in dataclasses.fields(cls)]
        own = inspect.signature(environment).parameters.values()
        named = [parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
        for keyword in keywords:
            if keyword not in known:
                raise unknown_name("a keyword argument", keyword, {*named, *known, "render_mode"})
        return cls(**keywords)


class Engine:
    """Everything behind ``reset`` and ``step`` for ``num_slots`` episodes; the environments add the API.

    Args:
        tasks: One for each slot; the same one as often as you like.
        options: The environment's keyword arguments.
    """

    def __init__(self, tasks: Sequence[Task], options: EnvOptions) -> None:
        self.tasks = tuple(tasks)
        self.options = options
        self.tokenizer = load_tokenizer(options.tokenizer)
        rewards = {"correctness": 1.0} if options.rewards is None else options.rewards
        self.rewards = RewardStack(rewards, workers=options.reward_workers)
        #: Whether a closed reasoning step can be paid for; otherwise nothing needs to look at it.
        self.pays_steps: bool = any(reward.per_step for reward in self.rewards)
        rules = ProcessRules(
            tokenizer=self.tokenizer.name,
            max_prompt_tokens=options.max_prompt_tokens,
            max_new_tokens=options.max_new_tokens,
            max_steps=options.max_steps,
            stop_strings=options.stop_strings,
            step_delimiter=options.step_delimiter,
        )
        replies = any(getattr(task, "replies", False) for task in self.tasks)
        self.process = Process(len(self.tasks), rules, self.tokenizer, self._reply if replies else None)
        self._grammar = None if options.grammar is None else load_grammar(options.grammar, self.tokenizer)

    def _reply(self, slot: int) -> str | None:
        return self.tasks[slot].reply(self.process.problem(slot), self.process.transcript(slot))

    def observation_space(self) -> spaces.Space[Any]:
        """Space of one slot's observations."""
        if self.options.action_unit != "token":
            return TextSpace()
        shape = (self.process.rules.width,)
        return spaces.Dict(
            {
                "attention_mask": spaces.Box(0, 1, shape, np.int8),
                "input_ids": spaces.Box(0, self.tokenizer.vocab_size - 1, shape, np.int32),
            }
        )

    def action_space(self) -> spaces.Space[Any]:
        """Space of one slot's actions."""
        return spaces.Discrete(self.tokenizer.vocab_size) if self.options.action_unit == "token" else TextSpace()

    def action_masks(self) -> Bools:
        """``(N, V)`` bool: the tokens that keep each slot's response to the grammar; all of them where there is none.

        Raises:
            InvalidOptionError: If actions are texts.
            InvalidActionError: If there is a grammar, and a slot has no episode or a response that left the grammar.
        """
        if self.options.action_unit != "token":
            raise InvalidOptionError(
                f'Expected action_unit="token" for masks of actions, actual: {self.options.action_unit!r}, where an '
                "action is a text. Act in tokens."
            )
        process = self.process
        masks = np.ones((process.num_slots, self.tokenizer.vocab_size), dtype=np.bool_)
        if self._grammar is None:
            return masks
        if np.any(process.stop_reason == NOT_STARTED):
            raise InvalidActionError(
                "Expected reset() before action_masks(), actual: slots without an episode. Call reset()."
            )
        slots = np.flatnonzero(process.stop_reason == RUNNING)  # elsewhere nothing is chosen
        states = self._grammar.states_after(process.ids[slots], process.turn_start[slots], process.length[slots])
        masks[slots] = self._grammar.allowed(states)
        return masks

    def begin(self, slot: int, rng: np.random.Generator, problem: Problem | None) -> dict[str, Any]:
        """Start an episode with a given problem or one of the task's; returns the info of ``reset``."""
        if problem is None:
            problem = self.tasks[slot].sample(rng)
        options = self.options
        prompt, ids = encode_prompt(problem.question, options.prompt_template, options.system_prompt, self.tokenizer)
        if not 0 < len(ids) <= options.max_prompt_tokens:
            raise PromptTooLongError(
                f"Expected a prompt of 1 to {options.max_prompt_tokens} tokens (`max_prompt_tokens`), actual: "
                f"{len(ids)} for the problem {problem.problem_id!r}. Pass max_prompt_tokens={max(len(ids), 1)} or "
                "more, or a shorter `prompt_template`."
            )
        self.process.begin(slot, problem, prompt, ids)
        info = problem.info()
        info["n_reasoning_steps"] = 0
        if options.reveal_reference_answer:
            info["reference_answer"] = problem.reference_answer
        return info

    def transition(self, slot: int) -> Transition:
        """What the last action did in a slot."""
        process = self.process
        transcript = process.transcript(slot)
        ended = transcript.stop_reason is not None
        last_step = n_steps = process.n_steps_at[slot]
        first_step = process.events.get(slot, n_steps)
        if ended and slot in process.events:  # the end closes a reasoning step that is still open
            last_step = count_steps(transcript.response, transcript.step_delimiter)
        return Transition(transcript, first_step, last_step, ended)

    def earns(self, slot: int) -> bool:
        """Whether any reward may be due in a slot of ``process.events``."""
        return self.pays_steps or self.process.stop_reason_at[slot] > 0


def parse_problem(problem: Any) -> Problem | None:
    """The problem that ``reset(options={"problem": ...})`` poses.

    Raises:
        InvalidOptionError: If it is neither a :class:`Problem`, a dict of plain values, nor ``None``.
    """
    if problem is None or isinstance(problem, Problem):
        return problem
    if isinstance(problem, Mapping):
        return Problem.from_dict(problem)
    raise InvalidOptionError(
        f'Expected options["problem"] to be a Problem or a dict with "question" and "answer", actual: {problem!r}. '
        "Pass one of the two."
    )


def check_task(task: Any) -> Task:
    """Refuse what is no task.

    Raises:
        TypeError: If it cannot draw problems.
    """
    if not callable(getattr(task, "sample", None)):
        raise TypeError(f"Expected `task` to have a method `sample(rng)`, actual: {task!r}. See llmgym.tasks.Task.")
    if getattr(task, "replies", False) and not callable(getattr(task, "reply", None)):
        raise TypeError(f"Expected a task with replies=True to have a method `reply`, actual: {task!r}. Write it.")
    valid: Task = task
    return valid


def save_rng(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """A random generator as plain values."""
    return type(rng.bit_generator).__name__, dict(rng.bit_generator.state)  # NumPy makes it anew each time


def load_rng(state: tuple[str, dict[str, Any]]) -> np.random.Generator:
    """The inverse of :func:`save_rng`."""
    bit_generator = getattr(np.random, state[0])(0)
    bit_generator.state = state[1]  # NumPy reads it and keeps nothing of it
    return np.random.Generator(bit_generator)


class LanguageEnv(gym.Env[Observation, Any]):
    """Writing text as a Markov decision process: the state is the prompt and everything written so far.

    Subclasses pass a task; everything else is a keyword argument, see :class:`EnvOptions`.

    Args:
        task: Where problems come from.
        render_mode: ``"ansi"`` (a coloured text), ``"human"`` (prints it), ``"rgb_array"`` (an image) or ``None``.
        options: Fields of :class:`EnvOptions`.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 8}  # noqa: RUF012 - Gymnasium's way

    def __init__(self, task: Task, *, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise unknown_name("`render_mode`", render_mode, RENDER_MODES)
        self.render_mode = render_mode
        self.engine = Engine([check_task(task)], EnvOptions.from_keywords(options, type(self)))
        self.observation_space = self.engine.observation_space()
        self.action_space = self.engine.action_space()
        self._vocab_size = self.tokenizer.vocab_size
        self._takes_tokens = self.engine.options.action_unit == "token"
        self._closes_response = self.engine.options.action_unit == "response"
        self._nothing_paid = dict.fromkeys(self.engine.rewards.names, 0.0)
        self._token_rewards: dict[int, float] = {}
        self._n_shown = 0  # tokens that "human" rendering has printed
        self._bind()

    def _bind(self) -> None:
        process = self.engine.process
        self._ids_row, self._written_row = process.ids[0], process.written[0]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_ids_row", "_written_row")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()  # the rows are views of the process's arrays, which copies would part

    # ------------------------------------------------------------------------------------------------ reset, step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Fixes this and all later episodes.
            options: ``{"problem": ...}`` poses a given problem: a :class:`~llmgym.tasks.Problem`, or a dict with
                ``"question"`` and ``"answer"``.

        Raises:
            InvalidOptionError: If an option is unknown.
            PromptTooLongError: If the prompt has more than ``max_prompt_tokens`` tokens.
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            if name in ("reset_mask", "group_size"):
                raise InvalidOptionError(
                    f"Expected no {name!r} in the reset options of a single environment, actual: {options[name]!r}. "
                    "It chooses among slots: use gymnasium.make_vec."
                )
            if name != "problem":
                raise unknown_name("a reset option", name, ("problem", "reset_mask", "group_size"))
        info = self.engine.begin(0, self.np_random, parse_problem(options.get("problem")))
        self._token_rewards = {}
        self._n_shown = 0
        if self.render_mode == "human":
            self.render()
        return self._observation(), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append an action to the state.

        Args:
            action: An id in ``[0, vocab_size)`` with token actions, otherwise a text.

        Returns:
            Observation, reward, terminated, truncated, info. ``info["reward_components"]`` holds the parts of the
            reward by name, ``info["n_reasoning_steps"]`` how many reasoning steps the agent has closed so far (one
            that the end leaves open is not counted). At the end, ``info["stop_reason"]`` says why, and
            ``info["reward_details"]`` what rewards have to say beside their number, such as ``{"correctness":
            {"verdict": "incorrect", "reason": "no_answer", "rule": ""}}``. ``info["unused_text"]`` is what the action
            had after the point where the episode or the turn ended.

        Raises:
            InvalidActionError: If the action is not in the action space, or the episode is over.
        """
        process = self.engine.process
        unused_text = ""
        if self._takes_tokens:
            token = action if type(action) is int else self._as_token(action)
            if not 0 <= token < self._vocab_size or process.stop_reason_at[0]:
                self._refuse(token)
            eventful = process.append_token(0, token)
        else:
            self._check_text_action(action)
            unused_text = process.append_text(0, action, self._closes_response)
            eventful = 0 in process.events
        components = self._nothing_paid.copy()
        info: dict[str, Any] = {"n_reasoning_steps": process.n_steps_at[0], "reward_components": components}
        reward, terminated, truncated = 0.0, False, False
        if eventful:
            if self.engine.earns(0):
                parts, details = self.engine.rewards.pay(self.engine.transition(0))
                components.update(parts)
                reward = math.fsum(components.values())
                if details:
                    info["reward_details"] = details
            reason = process.stopped(0)
            if reason is not None:
                terminated, truncated = reason.terminated, not reason.terminated
                info["stop_reason"] = reason.value
        if unused_text:
            info["unused_text"] = unused_text
        if self.render_mode is not None:
            self._record(reward)
        return self._observation(), reward, terminated, truncated, info

    def _observation(self) -> Observation:
        if self._takes_tokens:
            return {"attention_mask": self._written_row.copy(), "input_ids": self._ids_row.copy()}
        return self.engine.process.text(0)

    def _as_token(self, action: Any) -> int:
        try:
            return operator.index(action)
        except TypeError as error:
            raise InvalidActionError(
                f"Expected an action to be an int in [0, {self._vocab_size}), actual: {action!r} "
                f"({type(action).__name__}). Pass the id of a token."
            ) from error

    def _refuse(self, token: int) -> None:
        self._check_running()
        raise InvalidActionError(
            f"Expected an action in [0, {self._vocab_size}) (the vocabulary of {self.tokenizer.name!r}), actual: "
            f"{token}. Choose actions with the same tokenizer as the environment's."
        )

    def _check_running(self) -> None:
        code = self.engine.process.stop_reason_at[0]
        if code < 0:
            raise InvalidActionError(
                "Expected reset() before the first step(), actual: no episode has begun. Call reset()."
            )
        if code > 0:
            reason = self.engine.process.stopped(0)
            raise InvalidActionError(
                f"Expected reset() after the end of an episode, actual: step() after {reason.value!r}. Call reset()."  # type: ignore[union-attr]
            )

    def _check_text_action(self, action: Any) -> None:
        self._check_running()
        complaint = check_text(action, "an action")
        if complaint is not None:
            raise InvalidActionError(complaint)

    def close(self) -> None:
        """End the reward workers, where there are any."""
        self.engine.rewards.close()
        super().close()

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def process(self) -> Process:
        """The state machine; this environment is its slot 0."""
        return self.engine.process

    @property
    def tokenizer(self) -> Tokenizer:
        """Between text and ids."""
        return self.engine.tokenizer

    @property
    def task(self) -> Task:
        """Where problems come from."""
        return self.engine.tasks[0]

    @property
    def transcript(self) -> Transcript:
        """The state as text, at this moment."""
        return self.process.transcript(0)

    @property
    def last_transition(self) -> Transition:
        """What the last ``step()`` did: reasoning steps closed, episode ended or not."""
        return self.engine.transition(0)

    def action_masks(self) -> Bools:
        """``(V,)`` bool: the tokens that keep the response to the ``grammar``; all of them where there is none.

        After the end of an episode, where nothing is chosen, all of them.

        Raises:
            InvalidOptionError: If actions are texts.
            InvalidActionError: If there is a grammar, and no episode, or a response that does not keep to it.
        """
        mask: Bools = self.engine.action_masks()[0]
        return mask

    @property
    def token_trace(self) -> list[TokenTrace]:
        """Each token of the state with its text, its author and the reward paid there.

        Rewards are recorded where ``render_mode`` is not ``None``.
        """
        return self.process.trace(0, self._token_rewards)

    # ------------------------------------------------------------------------------------------------ state

    def clone_state(self) -> SlotState:
        """The state as a value, the random generator included. Restore it here or in any environment like this one."""
        return dataclasses.replace(
            self.process.save(0),
            rng=save_rng(self.np_random),
            token_rewards=tuple(self._token_rewards.items()),
        )

    def restore_state(self, state: SlotState) -> None:
        """Continue from a state: the same actions lead to the same trajectory, later episodes included.

        Raises:
            InvalidOptionError: If the state comes from an environment with other rules.
        """
        self.process.load(0, state)
        if state.rng is not None:
            self._np_random = load_rng(state.rng)
        self._token_rewards = dict(state.token_rewards)
        self._n_shown = min(self._n_shown, int(self.process.length[0]))

    # ------------------------------------------------------------------------------------------------ rendering

    def _record(self, reward: float) -> None:
        if reward:
            index = int(self.process.length[0]) - 1
            self._token_rewards[index] = self._token_rewards.get(index, 0.0) + reward
        if self.render_mode == "human":
            self.render()

    def render(self) -> Any:
        """The episode so far, coloured by who wrote a token and by what was paid for it.

        Returns:
            A text (``"ansi"``), an ``(H, W, 3)`` uint8 array (``"rgb_array"``), or ``None`` after printing what is new
            (``"human"``).
        """
        if self.render_mode is None:
            gym.logger.warn(
                "render() does nothing without a render mode. Pass e.g. render_mode='ansi' to gymnasium.make."
            )
            return None
        from llmgym import rendering  # needs nothing at import, but nobody pays for it who does not render

        trace = self.token_trace
        title = self.spec.id if self.spec is not None else type(self).__name__
        if self.render_mode == "rgb_array":
            return rendering.render_rgb(trace, title)
        if self.render_mode == "ansi":
            return rendering.render_ansi(trace, title)
        new, self._n_shown = trace[self._n_shown :], len(trace)
        print(rendering.render_inline(new), end="\n" if self.process.stopped(0) else "", flush=True)  # noqa: T201
        return None
