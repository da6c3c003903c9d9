"""A policy of texts behind any server that speaks OpenAI's protocol: vLLM, ``transformers serve``, llama.cpp, a cloud.

It plays step and response environments; nothing is learned through it, since the protocol carries texts::

    envs = gym.make_vec("llmgym/MathReason-v0", num_envs=8, action_unit="response", autoreset_mode="disabled")
    player = ServerPolicy("http://localhost:8000/v1", envs, model="tiny-reasoner", temperature=0.7)
    observations, infos = envs.reset(seed=0)
    actions = player.act(observations)  # texts, one for each slot
    print(evaluate_texts(player, envs, n_problems=100))

Retries, time limits and the wire format are those of the package ``openai``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from llmgym.core import Engine
from llmgym.errors import InvalidOptionError, LLMGymError, WrongEnvironmentError, missing_extra
from llmgym.transcript import split_steps
from llmgym.vector import WAIT

__all__ = ["ServerPolicy"]

Message = dict[str, str]


@dataclass
class _Turn:
    """What the server wrote in one slot, and what was said before it.

    Attributes:
        prompt: The observation that the episode began with.
        start: The observation that was written on from.
        messages: The conversation up to here, the agent's last words left out.
        pieces: Actions that are not handed out yet.
        expected: The next observation, if the environment adds nothing to the last action.
    """

    prompt: str
    start: str
    messages: list[Message]
    pieces: list[str]
    expected: str = ""


class ServerPolicy:
    """Lets a server write the actions of a step or response environment.

    A server is asked for the rest of a response at once. With step actions that rest is handed out a reasoning step at
    a time, since a server that stopped at a delimiter would not say whether the model had ended there. Where the
    environment wrote something in between, or cut an action short, the rest is thrown away and the server asked anew,
    from the transcript as it is then. So texts are those of a policy that is asked in each step, at a request a turn.

    The environment decides where an episode ends. A response that the server cut off at ``max_tokens`` is not taken for
    one that the model ended: more is asked for, until the environment's own budget is spent.

    The key of the server is read from the environment variable ``OPENAI_API_KEY``; without it none that matters is
    sent. It is kept by the client alone, and no message of ours holds it.

    Args:
        base_url: Of the server, up to ``/v1``.
        envs: The environment that is played, single or vectorised, with step or response actions: its delimiter, end
            token and budget decide what is asked for.
        model: Its name at the server.
        temperature: Of the sampling, at the server.
        top_p: Share of the probability that is sampled from. ``None``: what the server does by itself.
        max_tokens: Tokens asked for in one request. ``None``: the environment's ``max_new_tokens``.
        chat: Whether to talk to ``/chat/completions``, where the server applies its chat template: the prompt is the
            user's message, and so is what the environment writes. False: ``/completions``, which writes on from the
            transcript as it stands.
        system_prompt: First message of a chat.
        send_ids: Whether the prompt is sent as the ids of the environment's tokenizer, for servers that take them
            (vLLM does): the model then sees the tokens of the state and no others. Not in a chat.
        seed: Request ``i`` carries ``seed + i``. ``None``: none.
        n_concurrent: Requests at the same time.
        timeout: Seconds for one request.
        max_retries: Of a request that failed for a reason that may pass, with growing pauses.
        extra_body: Further fields of each request, as the server at hand knows them.

    Raises:
        MissingExtraError: If the package ``openai`` is not installed.
        InvalidOptionError: If an option is out of its bounds, or the environment has token actions.
        WrongEnvironmentError: If it is no language environment.
    """

    def __init__(
        self,
        base_url: str,
        envs: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
        *,
        model: str,
        temperature: float = 1.0,
        top_p: float | None = None,
        max_tokens: int | None = None,
        chat: bool = False,
        system_prompt: str | None = None,
        send_ids: bool = False,
        seed: int | None = None,
        n_concurrent: int = 64,
        timeout: float = 120.0,
        max_retries: int = 3,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise missing_extra("openai", "servers") from error
        engine = _engine(envs)
        _check_options(
            engine,
            temperature=(0 <= temperature < float("inf"), temperature, ">= 0 and finite"),
            max_tokens=(max_tokens is None or max_tokens >= 1, max_tokens, ">= 1"),
            n_concurrent=(n_concurrent >= 1, n_concurrent, ">= 1"),
            system_prompt=(chat or system_prompt is None, system_prompt, "None without chat=True"),
            send_ids=(not (chat and send_ids), send_ids, "False with chat=True"),
            chat=(
                not (chat and engine.options.prompt_template == "chat"),
                chat,
                'False where the environment applies a chat template (prompt_template="chat")',
            ),
        )
        rules = engine.process.rules
        self.base_url, self.model = base_url, model
        self.n_concurrent = n_concurrent
        self._tokenizer = engine.tokenizer
        self._whole_responses = engine.options.action_unit == "response"
        self._delimiter, self._budget = rules.step_delimiter, rules.max_new_tokens
        self._chat, self._system_prompt, self._send_ids = chat, system_prompt, send_ids
        self._seed, self._n_requests = seed, 0
        self._fields: dict[str, Any] = {
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens or self._budget,
            "extra_body": dict(extra_body or {}),
        } | ({} if top_p is None else {"top_p": top_p})
        self._openai = openai
        # The library insists on a key; a server of one's own asks for none.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout, max_retries=max_retries)
        self._turns: dict[int, _Turn] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> ServerPolicy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- acting ------------------------------------------------------------------------------------------------------

    def act(
        self,
        observations: Sequence[str],
        restarted: npt.NDArray[np.bool_] | None = None,
        waiting: npt.NDArray[np.bool_] | None = None,
    ) -> list[Any]:
        """The next action of every slot; all slots that need the server ask it at the same time.

        Args:
            observations: The transcript of each slot.
            restarted: ``(N,)`` bool. Slots that began a new episode. ``None``: those whose transcript does not go on
                from what was written there.
            waiting: ``(N,)`` bool. Slots to leave out. ``None``: none.

        Returns:
            A text for each slot; :data:`~llmgym.WAIT` where the slot waits.

        Raises:
            InvalidOptionError: If the server cannot be reached, or refuses the request, the model or the key.
            LLMGymError: If it fails, or answers with something that is no text.
        """
        if isinstance(observations, str):
            raise InvalidOptionError(
                "Expected a transcript for each slot, actual: one text. Of a single environment hand in "
                "[observation], and take the first action."
            )
        asking: list[int] = []
        for slot, observation in enumerate(observations):
            if waiting is not None and waiting[slot]:
                self._turns.pop(slot, None)
                continue
            if restarted is not None and restarted[slot]:
                self._turns.pop(slot, None)
            turn = self._turns.get(slot)
            if turn is None or not turn.pieces or observation != turn.expected:
                self._turns[slot] = self._next_turn(turn, observation)
                asking.append(slot)
        if asking:
            self._ask([self._turns[slot] for slot in asking])
        actions: list[Any] = [WAIT] * len(observations)
        for slot, observation in enumerate(observations):
            if waiting is None or not waiting[slot]:
                turn = self._turns[slot]
                actions[slot] = turn.pieces.pop(0)
                turn.expected = observation + actions[slot]
        return actions

    def _next_turn(self, before: _Turn | None, observation: str) -> _Turn:
        """Where the server has to write on from; a conversation goes on where the environment answered."""
        system = [] if self._system_prompt is None else [{"role": "system", "content": self._system_prompt}]
        if before is None or not observation.startswith(before.start):
            return _Turn(observation, observation, [*system, {"role": "user", "content": observation}], [])
        if observation == before.start:  # asked twice in one state, or again after an error
            return _Turn(before.prompt, observation, before.messages, [])
        messages = before.messages
        if self._chat:
            own, reply = _own_words(observation[len(before.start) :], before, self._tokenizer.end_token)
            if not reply:
                raise InvalidOptionError(
                    f"Expected a server that writes a whole turn of up to {self._budget} tokens in one message of a "
                    "chat, which nobody can go on writing, actual: it stopped before. Raise max_tokens, or play with "
                    "chat=False."
                )
            messages = [*messages, {"role": "assistant", "content": own}, {"role": "user", "content": reply}]
        return _Turn(before.prompt, observation, messages, [])

    def _ask(self, turns: Sequence[_Turn]) -> None:
        """Let the server write on in each of ``turns``, at the same time."""
        first = self._n_requests
        self._n_requests += len(turns)
        with ThreadPoolExecutor(min(self.n_concurrent, len(turns))) as pool:
            jobs = [pool.submit(self._write, turn, first + i) for i, turn in enumerate(turns)]
            try:
                for turn, job in zip(turns, jobs, strict=True):
                    turn.pieces = job.result()
            finally:
                for job in jobs:  # after an error: those that have not begun
                    job.cancel()

    def _write(self, turn: _Turn, number: int) -> list[str]:
        """The actions that the server's answer amounts to."""
        text, ended = self._request(turn, "", number)
        # A response is closed by the environment, as if the model had ended it: go on until it has, or has no budget.
        while self._whole_responses and not ended and self._n_tokens(text) < self._budget:
            more, ended = self._request(turn, text, number)
            text += more
        if self._whole_responses:
            return [text]
        pieces = list(split_steps(text, self._delimiter))
        end = self._tokenizer.end_token
        if ended and not text.endswith(end):
            # What ends the response belongs to its last step, if that is still open.
            if pieces and not pieces[-1].endswith(self._delimiter):
                pieces[-1] += end
            else:
                pieces.append(end)
        return pieces

    def _n_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode_steps(text, self._delimiter))

    # -- the server --------------------------------------------------------------------------------------------------

    def _request(self, turn: _Turn, written: str, number: int) -> tuple[str, bool]:
        """What the server writes after ``written``, and whether the model ended there."""
        fields = self._fields if self._seed is None else self._fields | {"seed": self._seed + number}
        if self._chat and written:
            raise LLMGymError(
                f"Expected a response of {self._budget} tokens or one that the model ended, in one message of a chat, "
                f"actual: cut off after max_tokens={fields['max_tokens']}. Raise max_tokens."
            )
        try:
            if self._chat:
                answer = self._client.chat.completions.create(messages=turn.messages, **fields)
            else:
                answer = self._client.completions.create(prompt=self._prompt(turn, written), **fields)
        except self._openai.OpenAIError as error:
            raise self._refusal(error) from None  # what the library says of a key holds part of it
        choices = getattr(answer, "choices", None)  # a page of HTML with status 200 comes as a text
        choice = choices[0] if choices else None
        said = getattr(choice, "message", None) if self._chat else choice
        text = getattr(said, "content" if self._chat else "text", None)
        reason = None if choice is None else choice.finish_reason
        if text is None or reason not in ("stop", "length") or (reason == "length" and not text):
            raise LLMGymError(
                f"Expected a text that {self.base_url} ended by 'stop' or 'length', actual: {text!r}, ended by "
                f"{reason!r}, after {turn.start[-60:]!r}. Look at what the server logs; a server that takes reasoning "
                "apart has to be started without that."
            )
        return text, reason == "stop"

    def _prompt(self, turn: _Turn, written: str) -> str | list[int]:
        if not self._send_ids:
            return turn.start + written
        since = turn.start[len(turn.prompt) :] + written
        return self._tokenizer.encode(turn.prompt) + self._tokenizer.encode_steps(since, self._delimiter)

    def _refusal(self, error: Exception) -> LLMGymError:
        """What went wrong, in our words."""
        openai = self._openai
        where = f"at {self.base_url}"
        if isinstance(error, openai.APITimeoutError):
            return LLMGymError(
                f"Expected an answer {where} within {self._client.timeout} s, actual: none in "
                f"{self._client.max_retries + 1} attempts. Raise `timeout`, or lower `n_concurrent` or `max_tokens`."
            )
        if isinstance(error, openai.APIConnectionError):
            return InvalidOptionError(
                f"Expected a server {where}, actual: {error.__cause__ or error}. Start it, or correct `base_url`."
            )
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            said = "the one that is set" if os.environ.get("OPENAI_API_KEY") else "none is set"
            return InvalidOptionError(
                f"Expected a key that the server {where} takes in the environment variable OPENAI_API_KEY, actual: "
                f"{said}; it answered {error.status_code}. Set it before the policy is made."
            )
        if not isinstance(error, openai.APIStatusError):
            return LLMGymError(f"Expected an answer of OpenAI's protocol {where}, actual: {type(error).__name__}.")
        said = " ".join(error.response.text.split())[:300]
        if key := os.environ.get("OPENAI_API_KEY"):
            said = said.replace(key, "...")
        if error.status_code in (400, 404, 422):
            return InvalidOptionError(
                f"Expected a request that the server {where} takes, actual: status {error.status_code}, {said} for "
                f"model={self.model!r}. Check `model`, the end of `base_url` (/v1), and `extra_body`."
            )
        return LLMGymError(
            f"Expected an answer {where}, actual: status {error.status_code}, {said} in "
            f"{self._client.max_retries + 1} attempts. Look at what the server logs."
        )


def _own_words(since: str, turn: _Turn, end_token: str) -> tuple[str, str]:
    """Cut what was added since a turn began into the agent's words and the environment's answer."""
    planned = (turn.expected[len(turn.start) :] + "".join(turn.pieces)).removesuffix(end_token)
    differ = (i for i, (a, b) in enumerate(zip(since, planned, strict=False)) if a != b)
    n = next(differ, min(len(since), len(planned)))
    return since[:n], since[n:]


def _check_options(engine: Engine, **rules: tuple[bool, object, str]) -> None:
    """Refuse what cannot work: name -> (whether it can, the value, what it has to be)."""
    if engine.options.action_unit == "token":
        raise InvalidOptionError(
            "Expected an environment whose actions are texts (a server speaks no token ids), actual: "
            'action_unit="token". Make it with action_unit="step" or "response".'
        )
    for name, (kept, value, rule) in rules.items():
        if not kept:
            raise InvalidOptionError(f"Expected {name} {rule}, actual: {value!r}. Change it.")


def _engine(envs: Any) -> Engine:
    """What an environment of ours is made of, whoever vectorised it."""
    bare = envs.unwrapped
    if isinstance(bare, AsyncVectorEnv):
        bare = SimpleNamespace(engine=bare.get_attr("engine")[0])
    elif isinstance(bare, SyncVectorEnv):
        bare = bare.envs[0].unwrapped
    engine = getattr(bare, "engine", None)
    if not isinstance(engine, Engine):
        raise WrongEnvironmentError(
            f"Expected a language environment of llmgym, actual: {type(bare).__name__}. Its delimiter, end token and "
            "budget are needed."
        )
    return engine
