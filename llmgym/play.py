"""``llmgym play``: an episode as it unfolds, written by a model or by the person at the keyboard."""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import gymnasium as gym
import numpy as np

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, WrongEnvironmentError, missing_extra, unknown_name
from llmgym.keywords import EnvKeywords, parse_keywords
from llmgym.registration import ENVIRONMENTS, find_spec, load_entry_point, takes_keyword
from llmgym.rendering import render_ansi, render_inline
from llmgym.tokenizers import TINY_REASONER, Tokenizer
from llmgym.transcript import Author

if TYPE_CHECKING:
    from llmgym.agents.policies import Policy

DEFAULT_ENV = "llmgym/MathReason-v0"
HUMAN = "human"

_BOLD, _FAINT, _GAIN = "1", "38;5;242", "1;38;5;114"


@dataclass(frozen=True)
class PlayOptions(EnvKeywords):
    """Show an episode as it unfolds.

    Attributes:
        env: Id of a language environment, of ours or not; module:id imports the module that registers it.
        policy: Who writes: tiny-reasoner, the folder or hub name of a model, or human.
        action_unit: What one action is.
        seed: Of the episode and of the sampling.
        top_k: Alternatives shown beside each token, with their probabilities; 0 shows the text alone.
        temperature: Of the sampling; low is nearly greedy.
        delay: Seconds to wait after each action.
    """

    env: str = DEFAULT_ENV
    policy: str = TINY_REASONER
    action_unit: Literal["token", "step", "response"] = "token"
    seed: int = 0
    top_k: int = 3
    temperature: float = 1.0
    delay: float = 0.0


class Writer(Protocol):
    """Who chooses the actions of an episode, and how each is shown once it was taken."""

    def next_action(self) -> int | str | None:
        """The next action; ``None`` gives up."""
        ...

    def show(self, start: int, paid: Mapping[str, float]) -> None:
        """Print the tokens from index ``start`` on, and what the action was paid."""
        ...


def play(options: PlayOptions) -> None:
    """Play one episode and print it while it is written."""
    check_playable(options)
    kwargs = parse_keywords(options.env_kwargs)
    for name in ("action_unit", "render_mode"):
        if name in kwargs:
            raise InvalidOptionError(
                f"Expected no {name!r} among --env-kwargs, actual: {kwargs[name]!r}. Use --action-unit; `play` renders "
                "by itself."
            )
    if options.policy != HUMAN:  # a person writes with the environment's own tokenizer
        kwargs.setdefault("tokenizer", options.policy)
    env = gym.make(options.env, **kwargs, action_unit=options.action_unit, render_mode="ansi")
    core = env.unwrapped
    if not isinstance(core, LanguageEnv):  # its entry point was a function, which said nothing before
        raise _not_playable(options.env, core)
    _, info = env.reset(seed=options.seed)
    about = [f"{key} {info[key]}" for key in ("family", "level", "language") if info.get(key)]
    print(paint(f"{options.env} · {options.policy} · {options.action_unit} actions · seed {options.seed}", _BOLD))
    print(paint(" · ".join(about), _FAINT))
    writer: Writer = Person(core) if options.policy == HUMAN else Model(core, options, kwargs)
    print("\n" + render_inline(core.token_trace, colour=in_colour()).rstrip("\n") + "\n")

    totals: dict[str, float] = {}
    over = False
    while not over:
        start = int(core.process.length[0])
        action = writer.next_action()
        if action is None:
            print("\n" + paint("no more input", _FAINT))
            return
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        paid = {name: part for name, part in info["reward_components"].items() if part}
        for name, part in paid.items():
            totals[name] = totals.get(name, 0.0) + part
        writer.show(start, paid)
        if "unused_text" in info:
            print(paint(f"written after the end, and not used: {info['unused_text']!r}", _FAINT))
        time.sleep(options.delay)
    _print_end(core, info["stop_reason"], totals)


def check_playable(options: PlayOptions) -> None:
    """Refuse an id whose environment is known not to be ours to show, before anything is made.

    Raises:
        InvalidOptionError: If the id is unknown, or its environment takes none of the keyword arguments needed here.
        WrongEnvironmentError: If it is no :class:`LanguageEnv`.
    """
    spec = find_spec(options.env)
    if spec is None:
        error = unknown_name("an environment", options.env, ENVIRONMENTS)
        raise InvalidOptionError(f"{error} An id that another module registers is written module:id.")
    creator = load_entry_point(spec.entry_point)
    if creator is None or (isinstance(creator, type) and not issubclass(creator, LanguageEnv)):
        raise _not_playable(options.env, creator)
    for keyword in ("action_unit", "render_mode", *(() if options.policy == HUMAN else ("tokenizer",))):
        if not takes_keyword(creator, keyword):
            raise InvalidOptionError(
                f"Expected an environment that takes `{keyword}`, actual: {options.env!r}, whose entry point does not. "
                "Name it there, or let the class pass its **options on to LanguageEnv."
            )


def _not_playable(env_id: str, actual: object) -> WrongEnvironmentError:
    kind = actual if isinstance(actual, type) else type(actual)
    return WrongEnvironmentError(
        f"Expected a language environment (a subclass of llmgym.core.LanguageEnv), actual: {env_id!r}, "
        f"{'which has no entry point' if actual is None else f'a {kind.__name__}'}. Choose another; `llmgym list` "
        "shows ours."
    )


def _print_end(core: LanguageEnv, stop_reason: str, totals: Mapping[str, float]) -> None:
    width = max(20, min(shutil.get_terminal_size((100, 24)).columns, 100))
    rule = paint("─" * width, _FAINT)
    transcript = core.transcript
    print(f"\n{rule}\n{render_ansi(core.token_trace, width=width, colour=in_colour())}\n{rule}")
    print(f"stop reason       {stop_reason}, after {transcript.n_new_tokens} tokens")
    print(f"reference answer  {transcript.problem.reference_answer}")
    print(f"reward            {parts(totals) or 'nothing was paid'}")


class Model:
    """A policy that writes. It chooses tokens, as many as make one action.

    Args:
        core: The environment played.
        options: Whose model, how warm, how many alternatives to show.
        env_kwargs: What ``core`` was made with.
    """

    def __init__(self, core: LanguageEnv, options: PlayOptions, env_kwargs: Mapping[str, Any]) -> None:
        try:
            from transformers.utils import logging

            from llmgym.agents.policies import Policy
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "agents") from error
        logging.disable_progress_bar()  # of the loading of weights
        self.core = core
        self.policy: Policy = Policy.load(options.policy, temperature=options.temperature, seed=options.seed)
        self.policy.n_actions = core.tokenizer.vocab_size
        self.by_token = options.action_unit == "token"
        self.by_step = options.action_unit == "step"
        self.top_k = options.top_k if self.by_token else 0
        self.begun = False
        if not self.by_token:
            # The same process with token actions: there the policy drafts the text of the next action.
            draft = gym.make(options.env, **env_kwargs, action_unit="token")
            draft.reset(seed=options.seed)
            self.draft = cast(LanguageEnv, draft.unwrapped)
        if self.top_k:
            print(paint("columns: number, token chosen, its probability, likeliest alternatives, reward paid", _FAINT))

    def next_action(self) -> int | str:
        """The next token, or the text of the next reasoning step or response."""
        if self.by_token:
            token = self._choose(self.core, restarted=not self.begun)
            self.begun = True
            return token
        env = self.draft
        env.restore_state(self.core.clone_state())
        tokens: list[int] = []
        complete = False
        while not complete:
            # A text may come back as other tokens than those drafted: the policy reads it anew.
            tokens.append(self._choose(env, restarted=not tokens))
            _, _, terminated, truncated, _ = env.step(tokens[-1])
            replied = env.process.author[0, env.process.length[0] - 1] == Author.ENVIRONMENT
            transition = env.last_transition
            closed = self.by_step and transition.last_step > transition.first_step
            complete = terminated or truncated or replied or closed
        return env.tokenizer.decode(tokens)

    def _choose(self, env: LanguageEnv, *, restarted: bool) -> int:
        observation: dict[str, Any] = {
            "input_ids": env.process.ids[:1].copy(),
            "attention_mask": env.process.written[:1],
        }
        turn_start = int(env.process.turn_start[0])
        self.alternatives = self._likeliest(observation, turn_start) if self.top_k else []
        actions, logprobs = self.policy.act(observation, np.array([restarted]), turn_starts=np.array([turn_start]))
        self.probability = float(np.exp(logprobs[0]))
        return int(actions[0])

    def _likeliest(self, observation: Mapping[str, Any], turn_start: int) -> list[tuple[int, float]]:
        """The ``top_k + 1`` likeliest next tokens with their probabilities."""
        import torch

        length = int(observation["attention_mask"].sum())
        transcript = torch.as_tensor(observation["input_ids"][0, :length], dtype=torch.long)
        probabilities, tokens = self.policy.next_probabilities(transcript, turn_start).topk(self.top_k + 1)
        return list(zip(tokens.tolist(), probabilities.tolist(), strict=True))

    def show(self, start: int, paid: Mapping[str, float]) -> None:
        """A line a token with its alternatives, or the text alone."""
        core = self.core
        if not self.top_k:
            print(render_inline(core.token_trace[start:], colour=in_colour()), end="", flush=True)
            return
        token = int(core.process.ids[0, start])
        others = [f"{visible(core.tokenizer, t)} {p:.2f}" for t, p in self.alternatives if t != token and p >= 0.005]
        number = int(core.process.n_new_tokens[0])
        row = f"{number:4}  {pad(visible(core.tokenizer, token), 12)}  {self.probability:4.2f}  "
        row += pad("█" * round(self.probability * 10), 12)
        print(row + paint(pad("   ".join(others[: self.top_k]), 44), _FAINT) + paint(parts(paid), _GAIN), flush=True)
        reply = core.token_trace[start + 1 :]
        if reply:  # the environment wrote something back
            print(render_inline(reply, colour=in_colour()))


class Person:
    """Whoever sits at the keyboard, or a file on standard input.

    Args:
        core: The environment played.
    """

    def __init__(self, core: LanguageEnv) -> None:
        self.core = core
        self.options = core.engine.options
        self.pending: list[int] = []
        end = core.tokenizer.end_token
        how = {
            "token": f"Type text: each of its tokens is an action. An empty line is a line break; {end} ends.",
            "step": f"Type one reasoning step a line; {end} ends.",
            "response": "Type the whole response; an empty line sends it.",
        }
        print(paint(how[self.options.action_unit], _FAINT))

    def next_action(self) -> int | str | None:
        """What was typed; ``None`` at the end of the input."""
        try:
            if self.options.action_unit == "response":
                return "\n".join(self._until_empty_line())
            if self.options.action_unit == "step":
                line = input("> ")
                return line if self.core.tokenizer.end_token in line else line + self.options.step_delimiter
            while not self.pending:
                # Not `encode`: what is typed goes on with a text, and has the ids that the other units would give it.
                self.pending = self.core.tokenizer.encode_steps(input("> ") or "\n", self.options.step_delimiter)
            return self.pending.pop(0)
        except EOFError:
            return None

    def _until_empty_line(self) -> Sequence[str]:
        lines = [input("> ")]  # an end of input here gives up; later it sends what there is
        try:
            while lines[-1]:
                lines.append(input("  "))
        except EOFError:
            pass
        return [line for line in lines if line]

    def show(self, start: int, paid: Mapping[str, float]) -> None:
        """The tokens that the text became, and what they earned."""
        process = self.core.process
        added = process.ids[0, start : int(process.length[0])].tolist()
        print(
            "  " + " ".join(visible(self.core.tokenizer, token) for token in added) + "   " + paint(parts(paid), _GAIN)
        )


# --- Shared with the other commands ----------------------------------------------------------------------------------


def in_colour() -> bool:
    """Whether standard output is a terminal that shows colours (see no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, style: str) -> str:
    """``text`` in an SGR style, where the output shows colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if text and in_colour() else text


def parts(components: Mapping[str, float]) -> str:
    """Reward parts in one line."""
    return "  ".join(f"{name} {part:+.2f}" for name, part in components.items())


def pad(text: str, columns: int) -> str:
    """``text`` with spaces after it, a wide character counting two columns."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return text + " " * max(0, columns - len(text) - wide)


def visible(tokenizer: Tokenizer, token: int) -> str:
    """A token with its white space made visible."""
    return tokenizer.token_text(token).replace("\n", "↵").replace(" ", "·") or f"[{token}]"
