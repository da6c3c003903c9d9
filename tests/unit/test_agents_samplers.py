"""A policy that an engine plays: what is handed out, thrown away and asked for anew; and learning from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gymnasium.vector import AutoresetMode  # noqa: E402

import llmgym  # noqa: E402
from llmgym.agents.evaluation import evaluate  # noqa: E402
from llmgym.agents.grpo import GRPO  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.ppo import PPO  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.agents.samplers import Continuation, SampledPolicy  # noqa: E402
from llmgym.agents.vllm_sampler import VLLMSampler  # noqa: E402
from llmgym.errors import InvalidActionError, InvalidOptionError, LLMGymError, MissingExtraError  # noqa: E402
from tests.unit.agent_fakes import EchoEnv, echo_envs, tiny_llama  # noqa: E402
from tests.unit.agent_samplers import GenerateSampler  # noqa: E402

ENV = "llmgym/MathReason-v0"


def sampled(model: Any = None, max_tokens: int = 64, **options: Any) -> SampledPolicy:
    model = tiny_llama() if model is None else model
    return SampledPolicy(model, sampler=GenerateSampler(model), max_tokens=max_tokens, **options)


def math_policy(max_tokens: int = 32, **options: Any) -> SampledPolicy:
    policy = Policy.load("tiny-reasoner", device="cpu", **options)
    return SampledPolicy.of(policy, GenerateSampler(policy.model), max_tokens)


def math_envs(num_envs: int = 8, **options: Any) -> Any:
    options = {"max_new_tokens": 24, "autoreset_mode": "disabled"} | options
    return gym.make_vec(ENV, num_envs=num_envs, **options)


def recomputed(policy: Policy, batch: RolloutBatch) -> np.ndarray[Any, Any]:
    """``(B, T)``: what learning makes of the batch's tokens."""
    n, width = len(batch), int(batch.prompt_lengths.max())
    prompts = np.zeros((n, width), dtype=np.int64)
    for row in range(n):
        prompts[row, : batch.prompt_lengths[row]] = batch.prompt_of(row)
    with torch.no_grad():
        scores = policy.logprobs(
            torch.from_numpy(prompts),
            torch.from_numpy(batch.prompt_lengths),
            torch.from_numpy(batch.response_ids),
            torch.from_numpy(batch.response_mask),
        )
    return scores.logprobs.numpy()


def assert_is_from(policy: Policy, batch: RolloutBatch) -> None:
    """Every log-probability in the batch is the policy's own, to rounding."""
    assert batch.response_mask.any()
    assert (batch.old_logprobs < 0).any()
    np.testing.assert_allclose(batch.old_logprobs, recomputed(policy, batch), atol=5e-5)


# -- collecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("max_tokens", [1, 3, 16])
def test_an_environment_that_writes_in_between_is_played_right(mode: AutoresetMode, max_tokens: int) -> None:
    policy = sampled(max_tokens=max_tokens, temperature=1.5)
    batch = collect(echo_envs(4, mode), policy, group_size=2, n_groups=5, seed=0)
    assert_is_from(policy, batch)
    assert len(batch) == 10
    for row in range(len(batch)):  # by the environment's rules: see EchoEnv
        env = EchoEnv()
        env.reset(seed=0)
        env.ids = batch.prompt_of(row).tolist()
        response, mask = batch.response_of(row), batch.response_mask[row]
        for place in np.flatnonzero(mask):
            assert env.ids[int(batch.prompt_lengths[row]) :] == response[:place].tolist()
            env.step(int(response[place]))
        last = env.ids[: len(batch.prompt_of(row)) + len(response)]
        assert last == [*batch.prompt_of(row).tolist(), *response.tolist()]


@pytest.mark.parametrize("max_tokens", [5, 32])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_batch_of_groups_is_the_policys_own(max_tokens: int, temperature: float) -> None:
    policy = math_policy(max_tokens, temperature=temperature)
    batch = collect(math_envs(), policy, group_size=4, n_groups=5, seed=0)
    assert_is_from(policy, batch)
    assert len(batch) == 20
    assert set(batch.stop_reasons) <= {"end_token", "max_new_tokens"}
    assert len({tuple(batch.response_of(row)) for row in range(4)}) > 1


def test_nearly_greedy_play_is_that_of_the_policy_itself() -> None:
    policy = math_policy(temperature=1e-3)
    own = Policy(policy.model, policy.tokenizer, temperature=1e-3)
    batches = [collect(math_envs(), player, n_groups=8, seed=2) for player in (policy, own)]
    np.testing.assert_array_equal(batches[0].response_ids, batches[1].response_ids)
    np.testing.assert_array_equal(batches[0].rewards, batches[1].rewards)


def test_the_engine_is_asked_once_for_all_responses() -> None:
    policy = math_policy(max_tokens=24)
    batch = collect(math_envs(), policy, group_size=4, seed=0)
    sampler: Any = policy.sampler
    assert len(sampler.prompts) == 1
    assert len(sampler.prompts[0]) == 8
    assert batch.n_timesteps > 8


def test_a_policy_of_a_smaller_vocabulary_draws_no_more() -> None:
    policy = sampled(tiny_llama(vocab_size=40))
    batch = collect(echo_envs(4, AutoresetMode.NEXT_STEP), policy, n_groups=8, seed=0)
    assert_is_from(policy, batch)
    assert batch.response_ids.max() < 9


def test_no_more_is_asked_for_than_an_observation_has_room_for() -> None:
    policy = sampled(max_tokens=64)
    limits: list[int] = []
    generate = policy.sampler.generate

    def spy(prompts: Sequence[Sequence[int]], max_tokens: Sequence[int], **options: Any) -> Any:
        limits.extend(len(prompt) + limit for prompt, limit in zip(prompts, max_tokens, strict=True))
        return generate(prompts, max_tokens, **options)

    policy.sampler.generate = spy  # type: ignore[method-assign]
    collect(echo_envs(2, AutoresetMode.NEXT_STEP), policy, seed=0)
    assert set(limits) == {24}


# -- acting -----------------------------------------------------------------------------------------------------------


class Scripted:
    """Writes 5, 6, 7, ... after any prompt, five tokens at a time."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []
        self.seeds: list[int] = []

    def load_weights(self, policy: Policy) -> None:
        pass

    def generate(self, prompts: Any, max_tokens: Any, *, seed: int, **options: Any) -> list[Continuation]:
        self.asked.append([list(prompt) for prompt in prompts])
        self.seeds.append(seed)
        return [Continuation(range(5, 5 + min(4, n)), [-0.5] * min(4, n)) for n in max_tokens]


def shown(*rows: Sequence[int]) -> dict[str, Any]:
    ids, mask = np.zeros((len(rows), 16), np.int32), np.zeros((len(rows), 16), np.int8)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}


def test_tokens_are_handed_out_until_the_transcript_is_another() -> None:
    engine = Scripted()
    policy = SampledPolicy(tiny_llama(), sampler=engine, max_tokens=8)
    nobody = np.zeros(2, dtype=bool)
    actions, logprobs = policy.act(shown([2], [3, 3]), ~nobody)
    assert actions.tolist() == [5, 5]
    assert logprobs.tolist() == [-0.5, -0.5]
    actions, _ = policy.act(shown([2, 5], [3, 3, 5]), nobody, nobody)
    assert actions.tolist() == [6, 6]
    assert len(engine.asked) == 1
    # In slot 1 the environment wrote: what was planned is void.
    actions, _ = policy.act(shown([2, 5, 6], [3, 3, 5, 6, 8]), nobody, nobody)
    assert actions.tolist() == [7, 5]
    assert engine.asked[1:] == [[[3, 3, 5, 6, 8]]]
    # Slot 0 waits, and what was planned for it is void, too.
    actions, logprobs = policy.act(shown([2, 5, 6, 7], [3, 3, 5, 6, 8, 5]), nobody, np.array([True, False]))
    assert actions.tolist() == [llmgym.WAIT, 6]
    assert logprobs.tolist() == [0.0, -0.5]
    actions, _ = policy.act(shown([4], [3, 3, 5, 6, 8, 5, 6]), np.array([True, False]), nobody)
    assert actions.tolist() == [5, 7]
    # A restart counts even where the new prompt looks like the continuation.
    policy.act(shown([4, 5], [3]), np.array([True, True]), nobody)
    assert engine.asked[2:] == [[[4]], [[4, 5], [3]]]
    assert len(set(engine.seeds)) == len(engine.seeds)


def test_a_token_that_the_environment_changed_voids_the_plan() -> None:
    engine = Scripted()
    policy = SampledPolicy(tiny_llama(), sampler=engine, max_tokens=8)
    policy.act(shown([2]))
    assert policy.act(shown([2, 8]))[0].tolist() == [5]
    assert engine.asked == [[[2]], [[2, 8]]]


def test_a_slot_that_shows_no_new_token_is_refused() -> None:
    policy = SampledPolicy(tiny_llama(), sampler=Scripted(), max_tokens=8)
    policy.act(shown([2], [2, 3]))
    with pytest.raises(InvalidActionError, match="slot 1"):
        policy.act(shown([2, 5], [2, 3]))


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.9}, {"forbidden": {2: [3]}}, {"grammar": "a*"}])
def test_what_an_engine_cannot_say_is_refused(options: dict[str, Any]) -> None:
    policy = SampledPolicy(tiny_llama(), sampler=Scripted(), max_tokens=8, **options)
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        policy.act(shown([2]))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([], "1 continuations .* actual: 0"),
        ([Continuation([], [])], "actual: 0 tokens"),
        ([Continuation([1, 2], [-1.0])], "actual: 2 tokens and 1 log-prob"),
        ([Continuation(range(9), [-1.0] * 9)], "1 to 8 tokens"),
    ],
)
def test_an_engine_that_breaks_its_promise_is_told(written: list[Continuation], message: str) -> None:
    engine = Scripted()
    engine.generate = lambda *_, **__: written  # type: ignore[method-assign]
    with pytest.raises(LLMGymError, match=message):
        SampledPolicy(tiny_llama(), sampler=engine, max_tokens=8).act(shown([2]))


def test_max_tokens_has_to_be_some() -> None:
    with pytest.raises(InvalidOptionError, match="max_tokens >= 1"):
        SampledPolicy(tiny_llama(), sampler=Scripted(), max_tokens=0)


# -- weights, learning ------------------------------------------------------------------------------------------------


def test_weights_are_handed_over_before_each_collection_and_not_oftener() -> None:
    policy = math_policy()
    sampler: Any = policy.sampler
    envs = math_envs()
    collect(envs, policy, seed=0)
    collect(envs, policy, seed=0)
    assert sampler.n_loads == 2
    policy.forget()
    policy.forget()
    assert sampler.n_loads == 2


def test_grpo_learns_from_what_the_engine_wrote(tmp_path: Path) -> None:
    policy = math_policy()
    agent = GRPO(
        policy,
        ENV,
        env_kwargs={"max_new_tokens": 24},
        group_size=4,
        problems_per_iteration=4,
        importance_cap=2.0,
        learning_rate=1e-3,
        run_dir=None,
    )
    before = [weights.clone() for weights in policy.model.parameters()]
    agent.learn(total_timesteps=1, progress_bar=False)
    assert agent.n_iterations == 1
    assert any(not torch.equal(old, new) for old, new in zip(before, policy.model.parameters(), strict=True))
    batch, _ = agent.collect()  # the engine has the new weights
    assert_is_from(policy, batch)

    # Saved, it is a plain policy; with an engine again it goes on.
    agent.save(tmp_path / "agent")
    again = GRPO.load(tmp_path / "agent")
    assert type(again.policy) is Policy
    again.policy = SampledPolicy.of(again.policy, GenerateSampler(again.policy.model), max_tokens=24)
    batch, _ = again.collect()
    assert_is_from(agent.policy, batch)
    assert_is_from(again.policy, batch)


def test_ppo_learns_from_it_too() -> None:
    """The values are the learner's own, so the engine need not know of them."""
    policy = math_policy()
    before = [weights.clone() for weights in policy.model.parameters()]
    options: dict[str, Any] = {"n_minibatches": 1, "n_epochs": 1, "learning_rate": 1e-3, "run_dir": None}
    agent = PPO(policy, ENV, env_kwargs={"max_new_tokens": 24}, problems_per_iteration=8, **options)
    agent.learn(total_timesteps=1, progress_bar=False)
    assert any(not torch.equal(old, new) for old, new in zip(before, policy.model.parameters(), strict=True))
    assert_is_from(policy, agent.collect()[0])


def test_adapters_are_handed_over_merged() -> None:
    pytest.importorskip("peft")
    policy = math_policy().add_lora(4)
    with torch.no_grad():
        for name, weights in policy.model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1)
    assert_is_from(policy, collect(math_envs(), policy, seed=0))


def test_an_evaluation_can_be_repeated() -> None:
    policy = math_policy()
    first, second = (evaluate(policy, math_envs(), n_problems=8, seed=1) for _ in range(2))
    assert first.examples == second.examples
    assert evaluate(policy, math_envs(), n_problems=8, seed=2).examples != first.examples


def test_a_policy_with_an_engine_is_the_same_policy() -> None:
    policy = Policy(tiny_llama(), temperature=0.7, seed=3)
    policy.max_logits = 77
    made = SampledPolicy.of(policy, Scripted())
    assert (made.model, made.generator, made.max_logits) == (policy.model, policy.generator, 77)
    assert made.options == policy.options
    assert type(made.frozen_copy()) is Policy  # a reference plays by itself


def test_without_vllm_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as Python marks what cannot be imported
    with pytest.raises(MissingExtraError, match=r'pip install "llmgym-rl\[vllm\]"'):
        VLLMSampler("nowhere")
