"""Collecting: who wrote what, what is paid where, groups, quotas, and each autoreset mode."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

import llmgym  # noqa: E402, F401
from llmgym.agents.agent import rollout_metrics  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.errors import InvalidOptionError, LLMGymError  # noqa: E402
from tests.unit.agent_fakes import END, VOCABULARY, EchoEnv, echo_envs, tiny_llama  # noqa: E402


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(tiny_llama())


def replay(batch: RolloutBatch, row: int) -> None:
    """Play an episode of EchoEnv again by its rules and compare every array of the record."""
    prompt, response = batch.prompt_of(row), batch.response_of(row)
    env = EchoEnv()
    env.reset(seed=0)
    env.ids = prompt.tolist()
    chosen, rewards, over, reason = [], [], False, ""
    place = 0
    while not over:
        before = len(env.ids)
        _, reward, terminated, truncated, info = env.step(int(response[place]))
        added = len(env.ids) - before
        over, reason = terminated or truncated, info.get("stop_reason", "")
        # What the environment writes after the last action is seen by nobody.
        kept = 1 if over else added
        chosen += [True] + [False] * (kept - 1)
        rewards += [reward] + [0.0] * (kept - 1)
        place += kept
    n = len(response)
    assert env.ids[: len(prompt) + n] == [*prompt.tolist(), *response.tolist()]
    assert batch.response_mask[row].tolist() == chosen + [False] * (batch.response_ids.shape[1] - n)
    assert batch.rewards[row, :n].tolist() == rewards
    assert (batch.rewards[row, n:] == 0).all()
    assert batch.stop_reasons[row] == reason
    assert batch.terminated[row] == (reason == "end_token")
    assert batch.unverifiable is not None
    assert batch.unverifiable[row] == (reason != "end_token")
    assert batch.reward_components["size"][row] == sum(rewards) == batch.episode_returns[row]
    assert ((batch.old_logprobs[row] < 0) == batch.response_mask[row]).all()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(("group_size", "n_groups"), [(1, 7), (2, 2), (2, 5), (4, 3)])
def test_every_record_is_what_happened(policy: Policy, mode: AutoresetMode, group_size: int, n_groups: int) -> None:
    batch = collect(echo_envs(4, mode), policy, group_size=group_size, n_groups=n_groups, seed=5)
    assert len(batch) == group_size * n_groups
    for row in range(len(batch)):
        replay(batch, row)
        first = row - row % group_size
        assert batch.prompt_of(row).tolist() == batch.prompt_of(first).tolist()
    assert batch.n_timesteps == batch.response_mask.sum()
    assert (batch.response_mask.sum(1) < batch.response_lengths).any()  # the environment did write
    assert 0 < batch.env_seconds + batch.policy_seconds < batch.seconds


class UnlikePromptsEnv(EchoEnv):
    """Prompts of 1 or 20 tokens, and responses that may fill what is left of the width."""

    played: ClassVar[list[list[int]]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = super().reset(seed=seed)
        self.ids = self.np_random.integers(2, VOCABULARY, size=int(self.np_random.choice([1, 20]))).tolist()
        return self.observation(), info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.ids.append(int(action))
        terminated, truncated = action == END, action != END and len(self.ids) == 24
        if terminated or truncated:
            self.played.append(list(self.ids))
        return self.observation(), 1.0, terminated, truncated, {}


def test_a_short_prompt_may_be_followed_by_as_many_tokens_as_a_long_one_has(policy: Policy) -> None:
    UnlikePromptsEnv.played.clear()
    envs = SyncVectorEnv([UnlikePromptsEnv] * 6, autoreset_mode=AutoresetMode.NEXT_STEP)
    with policy.playing(forbidden={token: [END] for token in range(VOCABULARY)}):
        batch = collect(envs, policy, n_groups=6, seed=4)
    assert sorted(set(batch.prompt_lengths.tolist())) == [1, 20]
    assert sorted(set(batch.response_lengths.tolist())) == [4, 23]
    recorded = [[*batch.prompt_of(row).tolist(), *batch.response_of(row).tolist()] for row in range(6)]
    assert all(transcript in UnlikePromptsEnv.played for transcript in recorded)
    assert (batch.response_mask.sum(1) == batch.response_lengths).all()
    for row, length in enumerate(batch.response_lengths):
        assert not batch.response_ids[row, length:].any()
        assert not batch.rewards[row, length:].any()


class SilentEnv(EchoEnv):
    """Its rewards say nothing of what was right."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action)
        info.pop("reward_details", None)
        return *rest, info  # type: ignore[return-value]


def test_without_a_verdict_nothing_is_said_to_be_verifiable(policy: Policy) -> None:
    envs = gym.vector.SyncVectorEnv([SilentEnv] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    batch = collect(envs, policy, group_size=1, n_groups=4, seed=5)
    assert batch.unverifiable is None
    assert "rollout/unverifiable" not in rollout_metrics(batch)
    with_verdicts = collect(echo_envs(2, AutoresetMode.SAME_STEP), policy, group_size=1, n_groups=4, seed=5)
    assert with_verdicts.unverifiable is not None
    assert rollout_metrics(with_verdicts)["rollout/unverifiable"] == with_verdicts.unverifiable.mean()


def test_logprobs_are_those_of_learning(policy: Policy) -> None:
    batch = collect(echo_envs(4, AutoresetMode.SAME_STEP), policy, group_size=2, n_groups=6, seed=1)
    width = batch.prompt_ids.shape[1]
    prompts = np.zeros((len(batch), width), dtype=np.int64)
    for row in range(len(batch)):
        prompts[row, : batch.prompt_lengths[row]] = batch.prompt_of(row)
    logprobs = policy.logprobs(
        torch.from_numpy(prompts),
        torch.from_numpy(batch.prompt_lengths),
        torch.from_numpy(batch.response_ids),
        torch.from_numpy(batch.response_mask),
    ).logprobs
    assert np.allclose(logprobs.detach().numpy(), batch.old_logprobs, atol=1e-5)


def copy_envs(n: int, mode: str, **kwargs: Any) -> Any:
    return gym.make_vec("llmgym/Copy-v0", num_envs=n, autoreset_mode=mode, **kwargs)


@pytest.mark.parametrize("mode", ["disabled", "next_step", "same_step"])
def test_native_environments_play_the_same_problems_in_all_modes(mode: str) -> None:
    envs = copy_envs(6, mode)
    policy = Policy(tiny_llama(int(envs.single_action_space.n)))
    batch = collect(envs, policy, group_size=2, n_groups=8, seed=3)
    reference = collect(copy_envs(6, "disabled"), policy, group_size=2, n_groups=8, seed=3)
    assert batch.prompt_ids.tolist() == reference.prompt_ids.tolist()
    assert len({tuple(prompt) for prompt in batch.prompt_ids.tolist()}) > 3
    ends = batch.response_ids[np.arange(len(batch)), batch.response_lengths - 1] == END
    assert (ends == batch.terminated).all()
    assert set(batch.stop_reasons) <= {"end_token", "max_new_tokens"}
    if mode == "disabled":
        assert batch.n_dropped == 0


@pytest.mark.parametrize("mode", ["disabled", "next_step", "same_step"])
def test_fewer_problems_than_blocks(mode: str) -> None:
    envs = copy_envs(8, mode)
    policy = Policy(tiny_llama(int(envs.single_action_space.n)))
    assert len(collect(envs, policy, group_size=2, n_groups=1, seed=0)) == 2


def test_problems_that_do_not_depend_on_the_slots() -> None:
    prompts = []
    for n, group_size in ((6, 1), (6, 3), (4, 2), (20, 1)):
        envs = copy_envs(n, "disabled", n_digits=5)
        policy = Policy(tiny_llama(int(envs.single_action_space.n)))
        batch = collect(envs, policy, group_size=group_size, n_groups=9, seed=3, seed_each_problem=True)
        prompts.append([batch.prompt_of(row).tolist() for row in range(0, len(batch), group_size)])
    assert prompts[0] == prompts[1] == prompts[2] == prompts[3]
    assert len({tuple(prompt) for prompt in prompts[0]}) == 9


def test_collecting_is_seeded() -> None:
    envs = copy_envs(4, "disabled")
    runs = []
    for _ in range(2):
        policy = Policy(tiny_llama(int(envs.single_action_space.n)), seed=7)
        runs.append([collect(envs, policy, group_size=2, n_groups=5, seed=3) for _ in range(2)])
    for a, b in zip(*runs, strict=True):
        assert a.response_ids.tolist() == b.response_ids.tolist()
        assert a.old_logprobs.tolist() == b.old_logprobs.tolist()
    assert runs[0][0].response_ids.tolist() != runs[0][1].response_ids.tolist()  # sampling went on


def test_without_a_seed_the_problems_go_on() -> None:
    envs = copy_envs(4, "disabled", n_digits=5)
    policy = Policy(tiny_llama(int(envs.single_action_space.n)))
    first = collect(envs, policy, group_size=2, seed=0)
    second = collect(envs, policy, group_size=2)
    assert first.prompt_ids.tolist() != second.prompt_ids.tolist()


def test_what_cannot_be_collected_is_refused(policy: Policy) -> None:
    with pytest.raises(InvalidOptionError, match="divides the 4 slots.*actual: 3"):
        collect(echo_envs(4, AutoresetMode.SAME_STEP), policy, group_size=3)
    with pytest.raises(InvalidOptionError, match="cannot let a slot wait"):
        collect(echo_envs(4, AutoresetMode.DISABLED), policy)
    with pytest.raises(InvalidOptionError, match="n_groups >= 1"):
        collect(echo_envs(4, AutoresetMode.SAME_STEP), policy, n_groups=0)
    with pytest.raises(InvalidOptionError, match='action_unit="token"'):
        collect(gym.make_vec("llmgym/Copy-v0", num_envs=2, action_unit="step"), policy)


def test_groups_that_are_none_are_noticed(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = echo_envs(4, AutoresetMode.SAME_STEP)
    reset = envs.reset
    monkeypatch.setattr(envs, "reset", lambda *, seed, options=None: reset(seed=[1, 2, 3, 4]))
    with pytest.raises(LLMGymError, match="one prompt for each group"):
        collect(envs, policy, group_size=2)
