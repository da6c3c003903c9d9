"""Acting: sampling, waiting, forbidden tokens, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.attention import matmul_attention  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
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


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.full((3, 5), float("-inf"))
    logits[0, 2] = logits[1, 0] = logits[2, 4] = 0.0
    for uniform in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        tokens, logprobs = Policy._sample(logits, torch.full((3, 1), uniform, dtype=torch.float64))
        assert tokens.tolist() == [2, 0, 4]
        assert logprobs.tolist() == [0.0, 0.0, 0.0]


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


def test_top_k_is_not_offered() -> None:
    with pytest.raises(TypeError, match="top_k"):
        Policy(tiny_llama(), top_k=5)  # type: ignore[call-arg]


def test_the_reference_does_not_follow() -> None:
    policy = Policy(tiny_llama(), temperature=0.5, forbidden={1: [2]}, n_actions=7)
    reference = policy.frozen_copy()
    assert (reference.temperature, reference.forbidden, reference.n_actions) == (0.5, {1: (2,)}, 7)
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


@pytest.mark.parametrize("option", [{"temperature": 0.5}, {"seed": 1}, {"device": "cpu"}, {"dtype": torch.float32}])
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


def test_attention_that_is_refused_says_what_would_work() -> None:
    states = torch.zeros(1, 1, 1, 2)
    with pytest.raises(InvalidOptionError, match='without `s_aux`.*On a GPU.*attn_implementation="eager"') as error:
        matmul_attention(torch.nn.Identity(), states, states, states, None, s_aux=states)
    assert "keep_attention" not in str(error.value)
