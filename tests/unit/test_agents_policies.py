"""Acting: sampling, waiting, forbidden tokens, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.attention import matmul_attention  # noqa: E402
from llmgym.agents.critics import ValueHead  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.sampling import pack_sets  # noqa: E402
from llmgym.errors import InvalidActionError, InvalidOptionError  # noqa: E402
from tests.unit.agent_fakes import tiny_llama  # noqa: E402


def observe(transcripts: list[list[int]]) -> dict[str, Any]:
    ids, mask = np.zeros((len(transcripts), 16), np.int32), np.zeros((len(transcripts), 16), np.int8)
    for row, transcript in enumerate(transcripts):
        ids[row, : len(transcript)], mask[row, : len(transcript)] = transcript, 1
    return {"input_ids": ids, "attention_mask": mask}


def test_samples_follow_the_tempered_distribution() -> None:
    policy = Policy(tiny_llama(), temperature=2.0)
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[3, 4]])).logits[0, -1] / 2.0
    expected = logits.softmax(-1).numpy()
    n = 4000
    actions, logprobs = policy.act(observe([[3, 4]] * n))
    shares = np.bincount(actions, minlength=9) / n
    assert np.abs(shares - expected).max() < 4 * 0.5 / np.sqrt(n)
    assert np.allclose(np.exp(logprobs), expected[actions], atol=1e-5)


def test_luck_does_not_depend_on_who_waits() -> None:
    transcripts = [[3], [4], [5], [6]]
    alone, together = Policy(tiny_llama(), seed=1), Policy(tiny_llama(), seed=1)
    everyone, _ = together.act(observe(transcripts))
    waiting = np.array([True, False, True, False])
    some, _ = alone.act(observe(transcripts), waiting=waiting)
    assert some.tolist() == [-1, everyone[1], -1, everyone[3]]


def test_acting_is_seeded() -> None:
    runs = [Policy(tiny_llama(), seed=seed).act(observe([[3]] * 50))[0].tolist() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_forbidden_tokens_have_no_probability() -> None:
    policy = Policy(tiny_llama(), forbidden={4: [2, 3, 5]})
    actions, _ = policy.act(observe([[3, 4]] * 500))
    assert not set(actions) & {2, 3, 5}
    policy.forget()
    with policy.playing(forbidden={}, temperature=3.0):
        actions, _ = policy.act(observe([[3, 4]] * 500))
        assert set(actions) & {2, 3, 5}
    assert policy.forbidden == {4: (2, 3, 5)}
    assert policy.temperature == 1.0


def test_all_forbidden_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="after token 4.*all 9"):
        Policy(tiny_llama(), forbidden={4: range(9)})


@pytest.mark.parametrize("forbidden", [{9: [1]}, {1: [-1]}, {1: [9]}])
def test_forbidden_ids_must_exist(forbidden: dict[int, list[int]]) -> None:
    with pytest.raises(InvalidOptionError, match=r"\[0, 9\).*actual: (9|-1)"):
        Policy(tiny_llama(), forbidden=forbidden)


def test_a_transcript_longer_than_the_models_positions_is_refused() -> None:
    """Rotary positions would go on without an error, and learning would see other positions than acting."""
    ids, mask = np.full((1, 70), 3, np.int32), np.zeros((1, 70), np.int8)
    mask[0, :64] = 1
    policy = Policy(tiny_llama())
    policy.act({"input_ids": ids, "attention_mask": mask})
    mask[0, 64] = 1
    with pytest.raises(InvalidOptionError, match="at most 64 tokens.*actual: 65"):
        policy.act({"input_ids": ids, "attention_mask": mask})


def test_a_larger_model_stays_inside_the_environment() -> None:
    policy = Policy(tiny_llama(), n_actions=4)
    actions, logprobs = policy.act(observe([[3]] * 300))
    assert set(actions) == {0, 1, 2, 3}
    total = sum(np.exp(logprobs[actions == a][0]) for a in range(4))
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_smaller_model_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="vocabulary of 20.*vocabulary of 9"):
        Policy(tiny_llama(), n_actions=20)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(InvalidOptionError, match="temperature > 0"):
        Policy(tiny_llama(), temperature=temperature)


def test_a_slot_without_a_new_token_is_refused() -> None:
    policy = Policy(tiny_llama())
    policy.act(observe([[3], [4]]))
    with pytest.raises(InvalidActionError, match="slot 1.*did not restart"):
        policy.act(observe([[3, 2], [4]]))


@pytest.mark.parametrize("fused", [True, False])
def test_a_transcript_without_tokens_is_refused_unless_it_waits(fused: bool) -> None:
    policy = Policy(tiny_llama(), fused=fused)
    with pytest.raises(InvalidActionError, match="at least one token in the observation of slot 1, actual: 0"):
        policy.act(observe([[3, 5], []]))
    actions, _ = policy.act(observe([[3, 5], []]), waiting=np.array([False, True]))
    assert actions[1] == -1


@pytest.mark.parametrize("top_k", [0, -1, 2.5, float("nan")])
def test_top_k_is_a_count(top_k: Any) -> None:
    with pytest.raises(InvalidOptionError, match=f"top_k a whole number >= 1, actual: {top_k}"):
        Policy(tiny_llama(), top_k=top_k)


@pytest.mark.parametrize("top_p", [0.0, -0.5, 1.5, float("nan")])
def test_top_p_is_a_probability(top_p: float) -> None:
    with pytest.raises(InvalidOptionError, match=rf"top_p in \(0, 1\], actual: {top_p}"):
        Policy(tiny_llama(), top_p=top_p)


def test_truncated_samples_follow_the_renormalised_distribution() -> None:
    """Forbidden tokens go first, then all but the three best, then all but the best half of those."""
    policy = Policy(tiny_llama(), temperature=0.5, forbidden={4: [2]}, top_k=3, top_p=0.8)
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[3, 4]])).logits[0, -1].double() / 0.5
    weights = {token: float(np.exp(logit)) for token, logit in enumerate(logits.tolist()) if token != 2}
    best = sorted(weights, key=weights.__getitem__, reverse=True)[:3]
    kept, mass = [], 0.0
    for token in best:
        if mass < 0.8 * sum(weights[b] for b in best):
            kept.append(token)
            mass += weights[token]
    n = 3000
    actions, logprobs = policy.act(observe([[3, 4]] * n))
    assert set(actions) == set(kept)
    assert 1 < len(kept) < 4
    for token in kept:
        expected = weights[token] / mass
        assert (actions == token).mean() == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(n))
        assert np.allclose(np.exp(logprobs[actions == token]), expected, atol=1e-5)
    expected_set = np.packbits(np.isin(np.arange(9), kept))
    assert (policy.last_allowed == expected_set).all()
    assert policy.last_allowed.shape == (n, 2)


def test_sets_are_kept_only_where_sampling_truncates() -> None:
    policy = Policy(tiny_llama(), top_k=9, top_p=1.0)  # neither leaves anything out
    policy.act(observe([[3], [4]]))
    assert policy.last_allowed is None
    policy.top_k = 2
    policy.act(observe([[3, 5], [4, 5]]), waiting=np.array([False, True]))
    assert [int(np.unpackbits(row).sum()) for row in policy.last_allowed] == [2, 0]
    with policy.playing(top_k=1):
        policy.act(observe([[3, 5, 6], [4]]), np.array([False, True]))
        assert [int(np.unpackbits(row).sum()) for row in policy.last_allowed] == [1, 1]
    assert policy.top_k == 2
    policy.act(observe([[3], [4]]), waiting=np.array([True, True]))
    assert not policy.last_allowed.any()


def test_learning_refuses_sets_that_do_not_fit() -> None:
    policy = Policy(tiny_llama(), top_k=2)
    prompts, lengths, responses = torch.tensor([[3]]), torch.tensor([1]), torch.tensor([[4, 5]])
    arguments = (prompts, lengths, responses, torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="Expected `allowed`.*actual: None"):
        policy.logprobs(*arguments)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\), actual: \(1, 2, 9\)"):
        policy.logprobs(*arguments, allowed=torch.ones(1, 2, 9, dtype=torch.uint8))
    sets = torch.zeros(1, 2, 9, dtype=torch.bool)
    sets[0, 0, 5] = True  # not the token that was chosen there
    with pytest.raises(ValueError, match="to be in its set"):
        policy.logprobs(*arguments, allowed=pack_sets(sets))
    sets[0, 0, 4] = True
    scores = policy.logprobs(*arguments, allowed=pack_sets(sets), with_entropy=True)
    with torch.no_grad():
        pair = policy.model(input_ids=torch.tensor([[3]])).logits[0, 0, [4, 5]].log_softmax(0)
    assert scores.logprobs[0].tolist() == pytest.approx([pair[0].item(), 0.0], abs=1e-6)
    assert scores.entropy[0, 0].item() == pytest.approx(-(pair.exp() * pair).sum().item(), abs=1e-6)


def test_the_entropy_has_the_gradient_of_the_distribution_played() -> None:
    """Against finite differences in the logits' bias, with a temperature, a forbidden token and a truncated set."""
    model = tiny_llama()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(9))
    policy = Policy(model.double(), temperature=0.7, forbidden={3: [7]}, top_k=5)
    sets = torch.zeros(1, 1, 9, dtype=torch.bool)
    sets[0, 0, [2, 4, 5, 8, 7]] = True

    def entropy() -> Any:
        scores = policy.logprobs(
            torch.tensor([[3]]),
            torch.tensor([1]),
            torch.tensor([[4]]),
            torch.tensor([[True]]),
            allowed=pack_sets(sets),
            with_entropy=True,
        )
        return scores.entropy[0, 0]

    entropy().backward()
    bias = model.lm_head.bias
    for token in range(9):
        sides = []
        for shift in (1e-2, -2e-2):  # the softmax is in float32: the step has to stand out from its rounding
            with torch.no_grad():
                bias[token] += shift
                sides.append(entropy().item())
        with torch.no_grad():
            bias[token] += 1e-2
        expected = (sides[0] - sides[1]) / 2e-2
        assert bias.grad[token].item() == pytest.approx(expected, abs=2e-4)
        assert (expected == 0) == (token not in (2, 4, 5, 8))


def test_nothing_is_computed_that_was_not_asked_for() -> None:
    policy = Policy(tiny_llama())
    arguments = (torch.tensor([[3]]), torch.tensor([1]), torch.tensor([[4, 5]]), torch.tensor([[True, True]]))
    widths: list[int] = []
    policy.model.model.layers[0].register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    scores = policy.logprobs(*arguments)
    assert scores[1:] == (None, None, None)
    assert policy.logprobs(*arguments, value_head=ValueHead(16)).last_values is not None
    assert widths == [2, 3]  # the state after the last token costs a column


def test_the_reference_does_not_follow() -> None:
    policy = Policy(tiny_llama(), temperature=0.5, forbidden={1: [2]}, n_actions=7, top_k=3, top_p=0.9)
    reference = policy.frozen_copy()
    expected = {"temperature": 0.5, "forbidden": {1: (2,)}, "grammar": None, "n_actions": 7, "top_k": 3, "top_p": 0.9}
    assert reference.options == policy.options == expected
    with torch.no_grad():
        next(policy.model.parameters()).add_(1.0)
    assert not torch.equal(next(policy.model.parameters()), next(reference.model.parameters()))
    assert not any(p.requires_grad for p in reference.model.parameters())


def test_state_space_layers_are_refused() -> None:
    model = tiny_llama()
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(InvalidOptionError, match="linear_attention"):
        Policy(model)


def test_the_shipped_model_loads() -> None:
    policy = Policy.load("tiny-reasoner", device="cpu")
    assert policy.model.dtype == torch.float32
    assert policy.tokenizer is not None
    actions, _ = policy.act(observe([policy.tokenizer.encode("1+1\n")]))
    assert isinstance(policy.text(actions), str)


@pytest.mark.parametrize(
    "option", [{"temperature": 0.5}, {"seed": 1}, {"device": "cpu"}, {"dtype": torch.float32}, {"top_k": 3}]
)
def test_loading_what_is_loaded_takes_no_options(option: dict[str, Any]) -> None:
    name, value = next(iter(option.items()))
    policy = Policy(tiny_llama())
    assert Policy.load(policy) is policy
    with pytest.raises(InvalidOptionError, match=f"no {name} for a Policy.*actual: {name}={value!r}"):
        Policy.load(policy, **option)
    if name in ("device", "dtype"):
        with pytest.raises(InvalidOptionError, match=f"no {name} for a LlamaForCausalLM"):
            Policy.load(policy.model, **option)
    else:
        assert isinstance(Policy.load(policy.model, **option), Policy)


def test_loading_with_gradient_checkpointing() -> None:
    policy = Policy.load("tiny-reasoner", device="cpu", gradient_checkpointing=True)
    assert policy.gradient_checkpointing
    assert not policy.frozen_copy().gradient_checkpointing  # it takes no gradient


def test_attention_that_is_refused_says_what_would_work() -> None:
    states = torch.zeros(1, 1, 1, 2)
    with pytest.raises(InvalidOptionError, match='without `s_aux`.*On a GPU.*attn_implementation="eager"') as error:
        matmul_attention(torch.nn.Identity(), states, states, states, None, s_aux=states)
    assert "keep_attention" not in str(error.value)
