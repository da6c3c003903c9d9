"""What must hold for any text and any actions: the unit of action changes nothing, a state is a value, data is fresh."""

import copy
import math
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st

from llmgym.core import LanguageEnv
from llmgym.tasks import Problem
from llmgym.testing import SumTask, ToolTask, tiny_tokenizer
from llmgym.testing.contract import share_memory
from llmgym.transcript import count_steps, split_steps
from llmgym.vector import LanguageVectorEnv

TOKENIZER = tiny_tokenizer()
STACK: dict[str, Any] = {"correctness": 1.0, "format": {"weight": 0.1, "mode": "soft"}, "process": 0.3, "length": -0.01}
PROBLEM = Problem("1+1=?", "2", "p")

#: Any text, and texts made of what rules look at.
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30) | st.lists(
    st.sampled_from(
        ["\n", "\n\n", "ab", "c\n", "1+1=2\n", "1+1=3\n", "<think>", "</think>", "<answer>2</answer>", "STOP", "你"]
    ),
    max_size=10,
).map("".join)
OPTIONS = st.fixed_dictionaries(
    {
        "max_new_tokens": st.sampled_from([1, 4, 16, 60]),
        "max_steps": st.sampled_from([None, 1, 2]),
        "stop_strings": st.sampled_from([(), ("STOP",), ("</answer>", "b")]),
        "step_delimiter": st.sampled_from(["\n", "\n\n", "b"]),
    }
)


def make(unit: str, task: Any = None, **options: Any) -> LanguageEnv:
    keywords: dict[str, Any] = {"rewards": STACK, "tokenizer": TOKENIZER, "max_prompt_tokens": 12} | options
    return LanguageEnv(task or SumTask(), action_unit=unit, **keywords)


def play_out(env: LanguageEnv, actions: list[Any]) -> dict[str, Any]:
    """The end of an episode and the totals of its reward parts; actions left over at the end are dropped."""
    env.reset(options={"problem": PROBLEM})
    parts: dict[str, list[float]] = {}
    reward_total, flags, stop_reason = [], (False, False), None
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        reward_total.append(reward)
        assert reward == math.fsum(info["reward_components"].values())  # exactly, whatever the order
        for name, part in info["reward_components"].items():
            parts.setdefault(name, []).append(part)
        flags, stop_reason = (terminated, truncated), info.get("stop_reason")
        if terminated or truncated:
            break
    totals = {name: pytest.approx(math.fsum(values), abs=1e-12) for name, values in parts.items()}
    process = env.process
    arrays = (process.ids, process.author, process.length, process.n_steps, process.n_new_tokens)
    return {"arrays": [array.tolist() for array in arrays], "flags": flags, "stop_reason": stop_reason, "parts": totals}


@given(TEXTS, OPTIONS)
def test_same_text_same_end_in_all_units(text: str, options: dict[str, Any]) -> None:
    delimiter = options["step_delimiter"]
    tokens = [*TOKENIZER.encode_steps(text, delimiter), TOKENIZER.end_token_id]
    by_token = play_out(make("token", **options), tokens)
    by_step = play_out(make("step", **options), [*split_steps(text, delimiter), TOKENIZER.end_token])
    whole = play_out(make("response", **options), [text])
    assert by_token == by_step
    assert by_token == whole


@given(st.text(alphabet="ab\n"), st.sampled_from(["\n", "a", "aa", "ab", "\n\n"]))
def test_steps_are_counted_as_they_are_cut(text: str, delimiter: str) -> None:
    assert count_steps(text, delimiter) == len(split_steps(text, delimiter))


@given(TEXTS, OPTIONS)
def test_what_is_written_and_what_is_unused_make_up_the_text(text: str, options: dict[str, Any]) -> None:
    env = make("response", **options)
    env.reset(options={"problem": PROBLEM})
    observation, *_, info = env.step(text)
    assert observation.removeprefix(env.transcript.prompt) == env.transcript.response
    if "<eos>" not in text and "\ufffd" not in observation:
        assert env.transcript.response + info.get("unused_text", "") == text


@given(st.sampled_from(["token", "step"]), st.booleans(), st.integers(0, 2**31), st.integers(1, 12), OPTIONS)
def test_fork_then_same_actions_same_trajectory(
    unit: str, tool: bool, seed: int, before: int, options: dict[str, Any]
) -> None:
    """In the original, in the same environment later, and in a slot of a vector environment; next episodes included."""
    task = ToolTask() if tool else SumTask()
    pieces = ("ab", "1+1=2\n", "<eos>", "calc", "calc<eos>", "bye<eos>", "\n", "STOP")
    rng = np.random.default_rng(seed)
    env = make(unit, task, **options)
    keywords: dict[str, Any] = {"rewards": STACK, "tokenizer": TOKENIZER, "max_prompt_tokens": 12} | options
    envs = LanguageVectorEnv(task, 2, action_unit=unit, **keywords)

    def action() -> Any:
        text = str(rng.choice(pieces))
        return TOKENIZER.encode(text)[0] if unit == "token" else text

    def roll(actions: list[Any]) -> list[Any]:
        ended = env.process.stopped(0) is not None
        trajectory = []
        for action in actions:
            step = env.reset() if ended else env.step(action)
            trajectory.append(step)
            ended = len(step) == 5 and (step[2] or step[3])
        return trajectory

    env.reset(seed=seed)
    roll([action() for _ in range(before)])
    state = env.clone_state()
    actions = [action() for _ in range(15)]
    first = roll(actions)
    after = env.clone_state()
    roll(actions[::-1])
    env.restore_state(state)
    assert env.clone_state() == state
    assert data_equivalence(first, roll(actions), exact=True)
    assert env.clone_state() == after
    envs.reset(seed=seed + 1)
    envs.restore_state([state, state])
    for act in actions:
        envs.step([act, act])
    assert envs.clone_state() == (after, after)


@given(st.sampled_from(["token", "step"]), st.sampled_from(["next_step", "same_step"]), st.integers(0, 2**31))
def test_no_array_is_shared_between_calls(unit: str, mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    env = make(unit, max_new_tokens=4)
    envs = LanguageVectorEnv(
        SumTask(), 3, action_unit=unit, autoreset_mode=mode, tokenizer=TOKENIZER, max_prompt_tokens=12, max_new_tokens=4
    )
    calls: list[Any] = [env.reset(seed=seed)]
    batched: list[Any] = [envs.reset(seed=seed)]
    for _ in range(6):
        tokens = rng.integers(1, 12, size=3)
        actions: Any = tokens if unit == "token" else tuple(TOKENIZER.decode([token]) for token in tokens)
        batched.append(envs.step(actions))
        calls.append(env.reset() if env.process.stopped(0) else env.step(actions[0]))
    own = [env.process.__dict__, envs.process.__dict__]
    for results in (calls, batched):
        copies = [copy.deepcopy(result) for result in results]
        for i, first in enumerate(results):
            for second in results[i + 1 :]:
                for left in leaves(first):
                    assert not any(share_memory(left, right) for right in leaves(second))
            for state in own:
                arrays = [value for value in state.values() if isinstance(value, np.ndarray)]
                assert not any(np.shares_memory(leaf, array) for leaf in leaves(first) for array in arrays)
        env.reset()
        envs.step([7] * 3 if unit == "token" else ("a",) * 3)
        assert data_equivalence(copies, results, exact=True)  # and nothing was written to later


def leaves(value: Any) -> list[Any]:
    """All arrays in nested data, those in object arrays included."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [leaf for item in value.tolist() for leaf in leaves(item)]
    return [value] if isinstance(value, np.ndarray) else []


@given(st.integers(0, 2**31))
def test_parts_sum_to_the_reward_exactly_in_the_vector(seed: int) -> None:
    envs = LanguageVectorEnv(SumTask(), 4, tokenizer=TOKENIZER, max_prompt_tokens=12, max_new_tokens=8, rewards=STACK)
    envs.reset(seed=seed)
    rng = np.random.default_rng(seed)
    ids = TOKENIZER.encode("1+1=2\n<think></think><answer>")
    for _ in range(12):
        _, rewards, _, _, infos = envs.step(rng.choice(ids, size=4))
        if "reward_components" not in infos:  # all slots were reset in this step
            continue
        parts = infos["reward_components"]
        for slot in np.flatnonzero(infos["_reward_components"]):
            assert rewards[slot] == math.fsum(parts[name][slot] for name in STACK)
