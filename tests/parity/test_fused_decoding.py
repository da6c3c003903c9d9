"""Decoding by llmgym's own code gives what the model's own code gives, in any order of episodes, in little memory."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llmgym.agents import slots, tiled_cache  # noqa: E402
from llmgym.agents.critics import ValueHead  # noqa: E402
from llmgym.agents.fused_decoding import FusedDecoder  # noqa: E402
from llmgym.agents.module_decoding import ModuleDecoder  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.slots import Feed  # noqa: E402
from llmgym.errors import NotFiniteError  # noqa: E402
from tests.parity.test_policy_parity import SMALL, V, full_logprobs, observe  # noqa: E402

WITH_BIASES = SMALL | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 6}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL | {"rope_theta": 100.0}),
    "llama_biases": ("LlamaConfig", WITH_BIASES),
    "mistral": ("MistralConfig", SMALL | {"sliding_window": None, "num_key_value_heads": 4}),
    "qwen2": ("Qwen2Config", SMALL | {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", SMALL | {"head_dim": 16}),
}


def make_model(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """With weights that matter: gains and biases are random too."""
    class_name, arguments = VARIANTS[name]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, class_name)(**arguments))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.ndim > 1 else 1.0 + 0.3 * noise)
    return model.to(dtype).eval()


def play_both(policies: list[Policy], n_steps: int, seed: int) -> list[list[Any]]:
    """Seven slots through restarts, waits and appended texts of all lengths; what each policy gave in each step."""
    rng, n = np.random.default_rng(seed), 7
    transcripts: list[list[int]] = [[] for _ in range(n)]
    prompts: list[list[int]] = [[] for _ in range(n)]
    waiting, seen = np.zeros(n, dtype=bool), []
    for step in range(n_steps):
        restarted = np.array([step == 0 or (len(t) > 30 or rng.random() < 0.12) for t in transcripts])
        back = waiting & (rng.random(n) < 0.4)
        waiting = (waiting & ~back) | (~restarted & (rng.random(n) < 0.06))
        restarted = (restarted | back) & ~waiting
        for slot in np.flatnonzero(restarted):
            transcripts[slot] = rng.integers(3, V, size=rng.integers(1, 12)).tolist()
        if step and rng.random() < 0.3:  # slots get the same new prompt, and none of them waits
            group = rng.integers(n, size=3)
            for slot in group:
                transcripts[slot] = list(transcripts[group[0]])
            restarted[group], waiting[group] = True, False
        if step and rng.random() < 0.4:  # a slot begins with what another one began with, which goes on
            slot, other = rng.choice(n, size=2, replace=False)
            transcripts[slot] = list(prompts[other])
            restarted[slot], waiting[slot] = True, False
        for slot in np.flatnonzero(restarted):
            prompts[slot] = list(transcripts[slot])
        given = [policy.act(observe(transcripts, 64), restarted, waiting) for policy in policies]
        seen.append(
            [(actions, logprobs, p.last_values) for (actions, logprobs), p in zip(given, policies, strict=True)]
        )
        for slot in np.flatnonzero(~waiting):
            transcripts[slot].append(int(given[0][0][slot]))
            if rng.random() < 0.08:  # the environment writes
                transcripts[slot] += rng.integers(3, V, size=rng.integers(1, 7)).tolist()
    return seen


@pytest.mark.parametrize("layout", ["one_pass", "many_passes"])
@pytest.mark.parametrize("name", VARIANTS)
def test_both_decoders_play_the_same_episodes(name: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = [Policy(make_model(name), seed=5, fused=fused) for fused in (True, False)]
    if layout == "many_passes":
        monkeypatch.setattr(slots, "_PREFILL_TOKENS", 12)  # a step takes several
        monkeypatch.setattr(tiled_cache, "_FIRST_TILES", 1)  # the cache grows on the way
    join, n_joined = slots.SlotRows.join, 0

    def counted(*arguments: Any) -> Any:
        nonlocal n_joined
        holder = join(*arguments)
        n_joined += holder is not None
        return holder

    monkeypatch.setattr(slots.SlotRows, "join", counted)
    torch.manual_seed(0)
    head = torch.nn.Linear(policies[0].hidden_size, 1).double()
    for policy in policies:
        policy.value_head = lambda hidden: head(hidden)[:, 0]
    for (actions, logprobs, values), (expected, of_module, their_values) in play_both(policies, 45, seed=len(name)):
        assert actions.tolist() == expected.tolist()
        assert np.abs(logprobs - of_module).max() < 2e-6  # both are handed out in float32
        assert np.abs(values - their_values).max() < 2e-6
    assert isinstance(policies[0]._decoder, FusedDecoder)
    assert isinstance(policies[1]._decoder, ModuleDecoder)
    assert n_joined >= 8  # by the two of them


@pytest.mark.parametrize("fused", [True, False])
def test_a_prompt_is_copied_from_a_slot_that_began_with_it(fused: bool) -> None:
    policy = Policy(make_model("qwen3"), fused=fused)
    fed: list[Feed] = []
    decoder = policy._memory(3)[1]
    advance = decoder.advance
    decoder.advance = lambda feed: fed.append(feed) or advance(feed)  # type: ignore[method-assign]
    transcripts = [[3, 4, 5, 6], [7, 8], [9]]
    policy.act(observe(transcripts))
    for transcript in transcripts:
        transcript.append(10)
    transcripts[1] = [3, 4, 5, 6]
    actions, logprobs = policy.act(observe(transcripts), np.array([False, True, False]))
    assert fed[1].joined == [(1, 0, 3)]
    assert not fed[1].blocks
    assert logprobs[1] == pytest.approx(float(full_logprobs(policy.model, transcripts[1])[-1, actions[1]]), abs=1e-6)

    with torch.no_grad():  # with other weights it is other keys and values
        policy.model.get_input_embeddings().weight.mul_(1.5)
    for slot in range(3):
        transcripts[slot].append(int(actions[slot]))
    transcripts[2] = [3, 4, 5, 6]
    actions, logprobs = policy.act(observe(transcripts), np.array([False, False, True]))
    assert not fed[2].joined
    assert logprobs[2] == pytest.approx(float(full_logprobs(policy.model, transcripts[2])[-1, actions[2]]), abs=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_a_prompt_read_with_other_weights_is_not_copied_after_they_were_put_elsewhere(fused: bool) -> None:
    """The weights that are counted are those that the model has, not those that it had."""
    policy = Policy(make_model("llama"), fused=fused)
    policy.act(observe([[3, 4, 5], [6]]))
    state = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    policy.model.load_state_dict(state, assign=True)
    policy.forget()
    transcripts = [[3, 4, 5], [6]]
    actions, _ = policy.act(observe(transcripts))
    transcripts[0].append(int(actions[0]))
    transcripts[1] = [3, 4, 5]
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.2)
    actions, logprobs = policy.act(observe(transcripts), np.array([False, True]))
    assert logprobs[1] == pytest.approx(float(full_logprobs(policy.model, [3, 4, 5])[-1, actions[1]]), abs=1e-6)


def test_the_last_rows_move_into_the_gaps_without_a_copy() -> None:
    policy = Policy(make_model("llama", torch.float32))
    transcripts = [[3, 4, 5, slot] for slot in range(6)]
    policy.act(observe(transcripts))
    cache = policy._decoder.cache
    places = cache.places(np.arange(6)).tolist()
    before = [states.copy() for states in cache.layers]
    for transcript in transcripts:
        transcript.append(3)
    policy.act(observe(transcripts), waiting=np.array([False, True, False, False, True, False]))
    assert policy._slots.slot.tolist() == [0, 5, 2, 3, -1, -1]
    assert cache.places(np.arange(4)).tolist() == [places[slot] for slot in (0, 5, 2, 3)]
    for states, old in zip(cache.layers, before, strict=True):
        assert (states[:, 0, :, :, :4] == old[:, 0, :, :, :4]).all()  # the four tokens of before


def test_a_long_run_of_short_episodes_stays_in_the_same_memory() -> None:
    policy = Policy(make_model("llama", torch.float32), seed=1)
    play_both([policy], 150, seed=1)
    assert all(states.shape[1] == tiled_cache._FIRST_TILES for states in policy._decoder.cache.layers)


def test_rows_given_up_hold_nothing() -> None:
    policy = Policy(make_model("llama", torch.float32))
    transcripts = [[3, 4, 5], [6], [7, 8]]
    policy.act(observe(transcripts))
    for slot in range(3):
        transcripts[slot].append(3)
    policy.act(observe(transcripts), waiting=np.array([False, True, True]))
    assert sorted(policy._decoder.cache.lengths.tolist()) == [0, 0, 4]


def test_new_weights_count_from_the_next_episode_on() -> None:
    """Without a word where autograd notices, and after `forget` in any case."""
    policy, other = Policy(make_model("qwen3")), make_model("qwen3")
    prompt = observe([[3, 4, 5]])
    policy.act(prompt)
    with torch.no_grad():
        for mine, theirs in zip(policy.model.parameters(), other.parameters(), strict=True):
            theirs.add_(0.05)
            mine.add_(0.05)
    for told in (False, True):
        if told:
            for mine, theirs in zip(policy.model.parameters(), other.parameters(), strict=True):
                theirs.data.mul_(1.1)
                mine.data.mul_(1.1)
            policy.forget()
        actions, logprobs = policy.act(prompt, np.array([True]))
        with torch.no_grad():
            expected = other(torch.tensor([[3, 4, 5]])).logits[0, -1].log_softmax(-1)
        assert logprobs[0] == pytest.approx(float(expected[actions[0]]), abs=1e-6)


def test_what_is_unusual_is_left_to_the_model() -> None:
    policy = Policy(make_model("llama"))
    policy.act(observe([[3, 4]]))
    assert isinstance(policy._decoder, FusedDecoder)
    calls: list[int] = []
    handle = policy.model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    policy.forget()
    policy.act(observe([[3, 4]]))
    assert calls == [1]
    handle.remove()
    policy.forget()
    policy.act(observe([[3, 4]]))
    assert calls == [1]
    policy.fused = False
    policy.act(observe([[3, 4]]))
    assert isinstance(policy._decoder, ModuleDecoder)
    assert not policy.frozen_copy().fused


@pytest.mark.parametrize("fused", [True, False])
def test_numbers_that_are_none_are_refused_and_not_remembered(fused: bool) -> None:
    policy, prompt = Policy(make_model("llama", torch.float32), fused=fused), observe([[3, 4], [5]])
    policy.act(prompt)
    weight = policy.model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        kept = weight.clone()
        weight[0, 0] = float("nan")
        policy.forget()
        with pytest.raises(NotFiniteError, match="finite log-probabilities, actual: nan"):
            policy.act(prompt)
        weight.copy_(kept)
    _, logprobs = policy.act(prompt)
    assert np.isfinite(logprobs).all()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_while_acting_are_those_of_learning(fused: bool, dtype: torch.dtype) -> None:
    policy = Policy(make_model("llama_biases", dtype), fused=fused)
    head = ValueHead(policy.hidden_size)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(1))
    policy.value_head = head
    prompts, transcripts, said = [[3, 4, 5], [6]], [[3, 4, 5], [6]], []
    for step in range(6):
        waiting = np.array([step == 5, False])
        actions, _ = policy.act(observe(transcripts), waiting=waiting)
        said.append(policy.last_values)
        for slot in np.flatnonzero(~waiting):
            transcripts[slot].append(int(actions[slot]))
    assert said[5][0] == 0
    responses = torch.tensor([[*transcripts[0][3:], 0], transcripts[1][1:]])
    mask = torch.tensor([[True] * 5 + [False], [True] * 6])
    inputs = {"prompt_ids": torch.tensor([prompts[0], [6, 0, 0]]), "prompt_lengths": torch.tensor([3, 1])}
    with torch.no_grad():
        expected, _ = policy.values(head, mask, response_ids=responses, **inputs)
    errors = np.abs(np.stack(said, axis=1) - expected.numpy())
    assert errors.max() < (1e-5 if dtype == torch.float32 else 0.15)
    assert expected.abs().max() > 1
    policy.value_head = None
    policy.act(observe(transcripts), np.array([True, True]))
    assert policy.last_values is None


def biased(model: Any) -> Any:
    before = model.model.layers[0].self_attn.q_proj
    after = torch.nn.Linear(before.in_features, before.out_features).double()
    with torch.no_grad():
        after.weight.copy_(before.weight)
        after.bias.fill_(0.5)
    return after


ALTERATIONS: dict[str, Any] = {
    "fewer_layers": lambda m: setattr(m.config, "num_hidden_layers", 1),
    "another_norm": lambda m: setattr(m.model, "norm", torch.nn.LayerNorm(m.config.hidden_size).double()),
    "no_norm": lambda m: setattr(m.model, "norm", torch.nn.Identity()),
    "another_activation": lambda m: setattr(m.model.layers[0].mlp, "act_fn", torch.nn.GELU()),
    "another_scale": lambda m: setattr(m.model.layers[0].self_attn, "scaling", 1.0),
    "another_epsilon": lambda m: setattr(m.model.norm, "variance_epsilon", 0.5),
    "a_bias_on_one_side": lambda m: setattr(m.model.layers[0].self_attn, "q_proj", biased(m)),
    "a_hook": lambda m: m.model.layers[0].mlp.register_forward_hook(lambda *a: 2.0 * a[2]),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_model_is_run_by_its_own_code(alteration: str) -> None:
    policies = [Policy(make_model("llama"), fused=fused) for fused in (True, False)]
    for policy in policies:
        ALTERATIONS[alteration](policy.model)
    (_, mine), (_, own) = (policy.act(observe([[3, 4, 5, 6]])) for policy in policies)
    assert mine.tolist() == own.tolist()
    assert isinstance(policies[0]._decoder, ModuleDecoder)


def test_a_pickled_policy_plays_on_as_the_original() -> None:
    policy = Policy(make_model("llama"), seed=3)
    transcripts = [[3, 4, 5], [6, 7]]
    for _ in range(3):
        actions, _ = policy.act(observe(transcripts))
        for slot in range(2):
            transcripts[slot].append(int(actions[slot]))
    copy = pickle.loads(pickle.dumps(policy))
    (actions, logprobs), (copied, of_copy) = (p.act(observe(transcripts)) for p in (policy, copy))
    assert actions.tolist() == copied.tolist()
    assert np.abs(logprobs - of_copy).max() < 2e-6


def test_after_an_error_within_a_step_the_same_step_can_be_taken() -> None:
    policy, other = (Policy(make_model("llama"), seed=3) for _ in range(2))
    policy.value_head = lambda hidden: 1 / 0
    with pytest.raises(ZeroDivisionError):
        policy.act(observe([[3, 4, 5]]))
    policy.value_head = lambda hidden: hidden
    with pytest.raises(ValueError, match="Squeeze its last axis"):
        policy.act(observe([[3, 4, 5]]))
    policy.value_head = None
    policy.generator.manual_seed(3)
    (actions, logprobs), (expected, others) = (p.act(observe([[3, 4, 5]])) for p in (policy, other))
    assert (actions.tolist(), logprobs.tolist()) == (expected.tolist(), others.tolist())
