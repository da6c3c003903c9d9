"""The native vector environment against Gymnasium's SyncVectorEnv over single environments: bit for bit the same."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from llmgym.core import LanguageEnv
from llmgym.testing import SPECIAL_TOKENS, SumTask, ToolTask, tiny_tokenizer
from llmgym.vector import LanguageVectorEnv

TASKS = {"sum": SumTask(), "tool": ToolTask()}
STACK = {"correctness": 1.0, "format": {"weight": 0.1, "mode": "soft"}, "process": 0.3, "length": -0.01}
#: Pieces that random text actions are made of: ends, hand-overs, delimiters, answers, other scripts.
PIECES = ("<eos>", "calc", "bye", "flood", "\n", "\n\n", "ab", "c\n", "1+1=2\n", "</answer>", "<answer>3", "你好", "é", "STOP")  # fmt: skip
#: Token actions are drawn from few ids, so that all rules come to bear in short episodes.
FEW_IDS = tiny_tokenizer().encode("abc\n\n\ncalcbye12STOP") + list(range(len(SPECIAL_TOKENS)))

OPTIONS = st.fixed_dictionaries(
    {
        "action_unit": st.sampled_from(["token", "step", "response"]),
        "max_new_tokens": st.sampled_from([1, 5, 12]),
        "max_prompt_tokens": st.sampled_from([8, 20]),
        "max_steps": st.sampled_from([None, 1, 3]),
        "stop_strings": st.sampled_from([(), ("STOP",), ("</answer>", "ab")]),
        "step_delimiter": st.sampled_from(["\n", "\n\n", "b"]),
        "rewards": st.sampled_from([{}, None, STACK]),
        "reveal_reference_answer": st.booleans(),
    }
)


def assert_identical(native: Any, reference: Any, where: str = "") -> None:
    """Same types, same dtypes, same bits, same keys; whatever the order of keys."""
    assert type(native) is type(reference), f"{where}: {type(native)} is not {type(reference)}"
    if isinstance(native, dict):
        assert native.keys() == reference.keys(), f"{where}: {sorted(native)} is not {sorted(reference)}"
        for key in native:
            assert_identical(native[key], reference[key], f"{where}.{key}")
    elif isinstance(native, (tuple, list)):
        assert len(native) == len(reference), where
        for i, (left, right) in enumerate(zip(native, reference, strict=True)):
            assert_identical(left, right, f"{where}[{i}]")
    elif isinstance(native, np.ndarray):
        assert native.dtype == reference.dtype, f"{where}: {native.dtype} is not {reference.dtype}"
        assert native.shape == reference.shape, where
        if native.dtype == object:
            assert_identical(native.tolist(), reference.tolist(), where)
        else:
            assert native.tobytes() == reference.tobytes(), f"{where}: {native} is not {reference}"
    else:
        assert native == reference, f"{where}: {native!r} is not {reference!r}"


def draw_actions(rng: np.random.Generator, unit: str, num_envs: int) -> Any:
    if unit == "token":
        return np.array([FEW_IDS[i] for i in rng.integers(len(FEW_IDS), size=num_envs)], dtype=np.int64)
    return tuple("".join(rng.choice(PIECES, size=rng.integers(4))) for _ in range(num_envs))


@pytest.mark.parametrize("mode", list(AutoresetMode))
@given(task=st.sampled_from(sorted(TASKS)), options=OPTIONS, seed=st.integers(0, 2**31), num_envs=st.integers(1, 5))
def test_native_is_bit_identical_to_sync(
    mode: AutoresetMode, task: str, options: dict[str, Any], seed: int, num_envs: int
) -> None:
    options = {"tokenizer": tiny_tokenizer()} | options
    native = LanguageVectorEnv(TASKS[task], num_envs, autoreset_mode=mode, **options)
    sync = SyncVectorEnv([lambda: LanguageEnv(TASKS[task], **options) for _ in range(num_envs)], autoreset_mode=mode)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.metadata == sync.metadata
    assert_identical(native.reset(seed=seed), sync.reset(seed=seed), "reset")
    rng = np.random.default_rng(seed)
    for step in range(25):
        actions = draw_actions(rng, options["action_unit"], num_envs)
        here, there = native.step(actions), sync.step(actions)
        assert_identical(here, there, f"step {step}")
        ended = here[2] | here[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_identical(
                native.reset(options={"reset_mask": ended.copy()}),
                sync.reset(options={"reset_mask": ended.copy()}),
                f"reset after step {step}",
            )
    assert_identical(list(native.clone_state()), list(sync.call("clone_state")), "states")


@given(
    seed=st.integers(0, 2**31), mask=st.lists(st.booleans(), min_size=4, max_size=4).filter(any), reseed=st.booleans()
)
def test_partial_reset_is_bit_identical_to_sync(seed: int, mask: list[bool], reseed: bool) -> None:
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "max_prompt_tokens": 8, "max_new_tokens": 4}
    native = LanguageVectorEnv(SumTask(), 4, **options)
    sync = SyncVectorEnv([lambda: LanguageEnv(SumTask(), **options)] * 4)
    native.reset(seed=seed)
    sync.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for step in range(12):
        if step == 3:
            seeds = [seed + 7, None, seed + 9, seed] if reseed else None
            assert_identical(
                native.reset(seed=seeds, options={"reset_mask": np.array(mask)}),
                sync.reset(seed=seeds, options={"reset_mask": np.array(mask)}),
                "partial reset",
            )
        actions = draw_actions(rng, "token", 4)
        assert_identical(native.step(actions), sync.step(actions), f"step {step}")


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@given(seed=st.integers(0, 2**31))
def test_transitions_are_those_of_single_environments(mode: str, seed: int) -> None:
    """What reward wrappers read: the same for a slot as for a single environment that took the same actions."""
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "max_prompt_tokens": 8, "max_new_tokens": 6}
    native = LanguageVectorEnv(SumTask(), 3, autoreset_mode=mode, **options)
    singles = [LanguageEnv(SumTask(), **options) for _ in range(3)]
    native.reset(seed=seed)
    over = [False] * 3
    for i, single in enumerate(singles):
        single.reset(seed=seed + i)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        actions = draw_actions(rng, "token", 3)
        native.step(actions)
        expected = []
        for i, single in enumerate(singles):
            if over[i]:
                single.reset()
                over[i] = False
                continue
            _, _, terminated, truncated, _ = single.step(int(actions[i]))
            over[i] = terminated or truncated
            transition = single.last_transition
            if transition.ended or transition.last_step > transition.first_step:
                expected.append((i, transition))
            if over[i] and mode == "same_step":
                single.reset()
                over[i] = False
        assert native.transitions == expected


def test_a_group_draws_what_each_of_its_slots_would_draw() -> None:
    """Once for all of them, again and again; problems that are given are not drawn."""
    options = {"num_envs": 4, "vectorization_mode": "vector_entry_point", "autoreset_mode": "disabled"}
    envs = gym.make_vec("llmgym/MathReason-v0", **options)
    single = gym.make("llmgym/MathReason-v0")
    for turn in range(3):
        _, infos = envs.reset(seed=[7, None, 9, None] if turn == 0 else None, options={"group_size": 2})
        _, info = single.reset(seed=7 if turn == 0 else None)
        assert infos["problem_id"][0] == infos["problem_id"][1] == info["problem_id"]
        assert infos["problem_id"][2] == infos["problem_id"][3] != info["problem_id"]
    posed = {"question": "1+1", "answer": "2"}
    envs.reset(options={"group_size": 2, "problem": [None, None, posed, None]})
    questions = [transcript.problem.question for transcript in envs.unwrapped.transcripts()]
    assert questions[0] == questions[1]
    assert questions[2] == "1+1" != questions[3]
