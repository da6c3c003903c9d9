"""What a batch says of each token: steps, sets, masks, rewards; and parts of batches put together again."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.core import LanguageEnv  # noqa: E402
from llmgym.testing import ToolTask, tiny_tokenizer  # noqa: E402
from llmgym.vector import LanguageVectorEnv  # noqa: E402
from tests.unit.agent_fakes import (  # noqa: E402
    END,
    VOCABULARY,
    CountingEchoEnv,
    EchoEnv,
    ScriptedPolicy,
    tiny_llama,
)

TOKENIZER = tiny_tokenizer()
MODES = ["disabled", "next_step", "same_step"]
OPTIONS: dict[str, Any] = {
    "tokenizer": TOKENIZER,
    "max_prompt_tokens": 24,
    "max_new_tokens": 12,
    "rewards": {"correctness": 1.0, "process": 0.5, "length": -0.01},
}
#: What the agent writes, slot by slot: whole steps, an open last one, a token that closes two, several turns, a step
#: that spans a turn, a last word of the environment, a budget that runs out, and one that is just enough.
TEXTS = [
    ["1+1=2\n<eos>", "c\nab\n\nx<eos>", "345678903456"],
    ["a\nbcalc<eos>z\n<eos>", "calc<eos>\ncalcxy", "bye<eos>"],
    ["34567890345<eos>", "\n<eos>", "calc<eos>bye<eos>"],
]
SCRIPTS = [[TOKENIZER.encode(text) for text in texts] for texts in TEXTS]


def tool_batch(mode: str, *, keeps_sets: bool = False) -> tuple[RolloutBatch, ScriptedPolicy]:
    envs = LanguageVectorEnv(ToolTask(), 3, autoreset_mode=mode, **OPTIONS)
    policy: Any = ScriptedPolicy(SCRIPTS, TOKENIZER.vocab_size, keeps_sets=keeps_sets)
    return collect(envs, policy, n_groups=9, seed=4), policy


@pytest.mark.parametrize("mode", MODES)
def test_every_token_is_what_a_single_environment_makes_of_it(mode: str) -> None:
    batch, _ = tool_batch(mode)
    assert batch.step_index is not None
    env = LanguageEnv(ToolTask(), **OPTIONS)
    for row, text in enumerate(text for place in range(3) for text in (texts[place] for texts in TEXTS)):
        a, b = re.findall("[0-9]", TOKENIZER.decode(batch.prompt_of(row).tolist()))
        first, _ = env.reset(options={"problem": {"question": f"{a}+{b}=?", "answer": str(int(a) + int(b))}})
        begin = int(first["attention_mask"].sum())
        width = batch.response_ids.shape[1]
        chosen, rewards, steps = np.zeros(width, bool), np.zeros(width), np.zeros(width, np.int64)
        logprobs = np.zeros(width, np.float32)
        over, written, at = False, "", 0
        for place, token in enumerate(TOKENIZER.encode(text)):
            assert not over
            at = int(env.process.length[0]) - begin
            chosen[at], logprobs[at] = True, -(place + 1) / 8
            steps[at] = written.count("\n")  # delimiters before the token, in what the agent wrote in all its turns
            written += TOKENIZER.decode([token])
            _, rewards[at], terminated, truncated, info = env.step(token)
            assert info["n_reasoning_steps"] == written.count("\n")
            over = terminated or truncated
        assert over
        n = at + 1  # what the environment writes after the last action is seen by nobody
        assert batch.response_lengths[row] == n
        assert batch.response_of(row).tolist() == env.process.ids[0, begin : begin + n].tolist()
        assert batch.response_mask[row].tolist() == chosen.tolist()
        assert batch.rewards[row].tolist() == rewards.tolist()
        assert batch.step_index[row].tolist() == steps.tolist()
        assert batch.old_logprobs[row].tolist() == logprobs.tolist()
        assert batch.terminated[row] == terminated
        assert batch.truncated[row] == truncated
    assert (batch.response_mask.sum(1) < batch.response_lengths).any()  # the environment did write
    assert batch.step_index.max() == 3


def test_the_end_token_is_an_action_and_a_full_row_may_have_ended_by_itself() -> None:
    batch, _ = tool_batch("disabled")
    by_text = {text: row for row, text in enumerate(texts[place] for place in range(3) for texts in TEXTS)}
    ended, cut = by_text["34567890345<eos>"], by_text["345678903456"]
    end = TOKENIZER.end_token_id
    assert batch.response_mask[ended].sum() == 12 == OPTIONS["max_new_tokens"]
    assert batch.response_of(ended)[-1] == end
    assert not batch.truncated[ended]
    assert batch.stop_reasons[ended] == "end_token"
    assert batch.truncated[cut]
    assert batch.stop_reasons[cut] == "max_new_tokens"
    last = int(batch.response_lengths[ended]) - 1
    assert batch.response_mask[ended, last]
    assert batch.old_logprobs[ended, last] == -12 / 8
    assert batch.rewards[ended, last] == batch.episode_returns[ended] == -0.01  # of its length, and nothing else


@pytest.mark.parametrize("mode", MODES)
def test_the_sets_sampled_from_are_kept_with_their_tokens(mode: str) -> None:
    batch, policy = tool_batch(mode, keeps_sets=True)
    assert batch.allowed is not None
    assert batch.allowed.shape == (*batch.response_ids.shape, (TOKENIZER.vocab_size + 7) // 8)
    assert batch.allowed[batch.response_mask].tolist() == policy.sets(batch.response_ids[batch.response_mask]).tolist()
    assert not batch.allowed[~batch.response_mask].any()
    assert tool_batch(mode)[0].allowed is None


def test_the_sets_are_those_of_the_policy() -> None:
    envs = SyncVectorEnv([EchoEnv] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    batch = collect(envs, Policy(tiny_llama(), top_k=2), group_size=2, n_groups=4, seed=0)
    assert batch.allowed is not None
    allowed = np.unpackbits(batch.allowed, axis=2, count=VOCABULARY)
    assert np.take_along_axis(allowed, batch.response_ids[..., None], axis=2)[batch.response_mask].all()
    assert (allowed.sum(2) == np.where(batch.response_mask, 2, 0)).all()


ECHO_SCRIPTS = [[[3, 8, 5, 7, END], [7, 7, 7, 7, 7], [END]], [[5, 5, END], [3, END], [2, 3, 2, 3, 3]]]


class CountsAtFirstEnv(CountingEchoEnv):
    """Says how many steps are closed in ``reset`` only."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        info.pop("n_reasoning_steps")
        return *rest, info  # type: ignore[return-value]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_steps_are_counted_by_any_environment_that_says_so(mode: AutoresetMode) -> None:
    batches = []
    for env in (CountingEchoEnv, EchoEnv, CountsAtFirstEnv):
        policy: Any = ScriptedPolicy(ECHO_SCRIPTS, VOCABULARY)
        batches.append(collect(SyncVectorEnv([env] * 2, autoreset_mode=mode), policy, n_groups=6, seed=0))
    assert batches[0].step_index is not None
    agents = [batches[0].step_index[row][mask].tolist() for row, mask in enumerate(batches[0].response_mask)]
    #        3 8 5 7 end       5 5 end    7 7 7 7 7        3 end   end  2 3 2 3 3
    assert agents == [[0, 1, 1, 3, 3], [0, 2, 4], [0, 0, 0, 0, 0], [0, 1], [0], [0, 0, 1, 1, 2]]
    assert not batches[0].step_index[~batches[0].response_mask].any()
    assert batches[1].step_index is None
    assert batches[2].step_index is None


def same(a: RolloutBatch, b: RolloutBatch) -> None:
    for field in fields(RolloutBatch):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            assert np.array_equal(left, right), field.name
        elif isinstance(left, dict):
            assert {k: v.tolist() for k, v in left.items()} == {k: v.tolist() for k, v in right.items()}
        elif not isinstance(left, float):
            assert left == right, field.name


def grouped(batch: RolloutBatch) -> RolloutBatch:
    return dataclasses.replace(batch, group_size=3)


def test_a_batch_is_the_sum_of_its_parts() -> None:
    batch = grouped(tool_batch("disabled", keeps_sets=True)[0])
    parts = [batch.select(range(3 * group, 3 * group + 3)) for group in range(3)]
    assert len({part.response_ids.shape[1] for part in parts}) > 1  # no wider than they need be
    assert all(part.response_ids.shape[1] == part.response_lengths.max() for part in parts)
    whole = RolloutBatch.concatenate([*parts, batch.select([])])
    same(whole, batch)
    assert whole.seconds == pytest.approx(4 * batch.seconds)
    assert whole.env_seconds == pytest.approx(4 * batch.env_seconds)
    assert whole.policy_seconds == pytest.approx(4 * batch.policy_seconds)


def test_rows_are_selected_in_the_order_asked_for() -> None:
    batch = grouped(tool_batch("disabled", keeps_sets=True)[0])
    order = [8, 6, 7, 0, 2, 1]
    chosen = batch.select(order)
    assert [chosen.prompt_of(i).tolist() for i in range(6)] == [batch.prompt_of(row).tolist() for row in order]
    assert [chosen.response_of(i).tolist() for i in range(6)] == [batch.response_of(row).tolist() for row in order]
    assert chosen.stop_reasons == [batch.stop_reasons[row] for row in order]
    assert chosen.terminated.tolist() == batch.terminated[order].tolist()
    assert chosen.episode_returns.tolist() == batch.episode_returns[order].tolist()
    by_mask = np.isin(np.arange(9), [3, 4, 5])
    same(batch.select(by_mask), batch.select([3, 4, 5]))
    assert len(batch.select([])) == batch.select([]).n_timesteps == 0


def test_prompts_of_different_lengths_keep_no_more_padding_than_they_need() -> None:
    policy: Any = ScriptedPolicy([[[END]] * 6] * 2, VOCABULARY)
    envs = SyncVectorEnv([EchoEnv] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    batch = collect(envs, policy, n_groups=12, seed=0)
    short = np.flatnonzero(batch.prompt_lengths == 1)
    long = np.flatnonzero(batch.prompt_lengths == 3)
    assert len(short) > 0
    assert len(long) > 0
    narrow = batch.select(short)
    assert narrow.prompt_ids.tolist() == batch.prompt_ids[short, -1:].tolist()
    both = RolloutBatch.concatenate([narrow, batch.select(long)])
    assert both.prompt_ids.tolist() == batch.prompt_ids[[*short, *long]].tolist()


def test_counters_add_and_missing_parts_are_zero() -> None:
    batch = tool_batch("disabled")[0]
    said = dataclasses.replace(batch, n_dropped=2, unverifiable=np.ones(9, bool))
    silent = dataclasses.replace(batch, n_dropped=3, reward_components={"style": np.ones(9)})
    both = RolloutBatch.concatenate([said, silent])
    assert both.n_dropped == 5
    assert both.unverifiable is not None
    assert both.unverifiable.tolist() == [True] * 9 + [False] * 9
    assert both.reward_components["style"].tolist() == [0.0] * 9 + [1.0] * 9
    assert both.reward_components["length"].tolist() == [*batch.reward_components["length"].tolist(), *[0.0] * 9]
    silent = dataclasses.replace(batch, unverifiable=None)
    assert RolloutBatch.concatenate([silent, silent]).unverifiable is None


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 3], [0, 0, 1], [2, 3, 4], [[0, 1, 2]], [True] * 5 + [False] * 4])
def test_parts_of_groups_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="whole groups of 3"):
        grouped(tool_batch("disabled")[0]).select(rows)


def test_batches_of_different_kinds_are_refused() -> None:
    batch = tool_batch("disabled")[0]
    with pytest.raises(ValueError, match="at least one"):
        RolloutBatch.concatenate([])
    with pytest.raises(ValueError, match="one group_size"):
        RolloutBatch.concatenate([batch, grouped(batch)])
    with pytest.raises(ValueError, match="one step_index"):
        RolloutBatch.concatenate([batch, dataclasses.replace(batch, step_index=None)])
    with pytest.raises(ValueError, match="one allowed"):
        RolloutBatch.concatenate([batch, tool_batch("disabled", keeps_sets=True)[0]])
