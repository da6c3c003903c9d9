"""Values: a head on the policy's trunk, and a value model of its own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.critics import Critic, ValueHead  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from tests.unit.agent_fakes import tiny_llama  # noqa: E402

PROMPTS = [[3, 4, 5], [6]]
INDEX = torch.tensor([0, 1, 1])
RESPONSES = [[2, 3, 4, 5], [7, 8], [3, 3, 6]]  # the last token of the third is the environment's


def arguments(pad: int = 0) -> tuple[Any, ...]:
    prompt_ids, responses = torch.full((2, 3 + pad), 1), torch.full((3, 4 + pad), 1)
    mask = torch.zeros(3, 4 + pad, dtype=torch.bool)
    for row, prompt in enumerate(PROMPTS):
        prompt_ids[row, : len(prompt)] = torch.tensor(prompt)
    for row, response in enumerate(RESPONSES):
        responses[row, : len(response)] = torch.tensor(response)
        mask[row, : len(response)] = True
    mask[0, 1] = mask[2, 2] = False
    return prompt_ids, torch.tensor([3, 1]), responses, mask


def random_head() -> ValueHead:
    torch.manual_seed(3)
    head = ValueHead(16)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias, 0.5)
    return head


def values_by_hand(model: Any, head: ValueHead) -> list[Any]:
    """Values after the prompt and after each response token, by one plain pass over each whole transcript."""
    found = []
    for row, response in enumerate(RESPONSES):
        prompt = PROMPTS[INDEX[row]]
        ids = torch.tensor([prompt + response])
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        found.append((hidden @ head.linear.weight[0] + head.linear.bias)[len(prompt) - 1 :])
    return found


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_values_are_of_the_states_before_the_tokens(pad: int, apart: bool) -> None:
    policy, head = Policy(tiny_llama()), random_head()
    prompt_ids, lengths, responses, mask = arguments(pad)
    expected = values_by_hand(tiny_llama(), head)
    for response_lengths in (None, torch.tensor([4, 2, 3])):
        more: dict[str, Any] = {"prompt_index": INDEX, "response_lengths": response_lengths}
        if apart:
            critic = Critic(policy)
            critic.value_head = head
            values, last_values = critic.values(prompt_ids, lengths, responses, mask, **more)
        else:
            scores = policy.logprobs(prompt_ids, lengths, responses, mask, value_head=head, **more)
            values, last_values = scores.values, scores.last_values
        for row, by_hand in enumerate(expected):
            chosen = mask[row, : len(by_hand) - 1]
            assert torch.allclose(values[row, : len(by_hand) - 1][chosen], by_hand[:-1][chosen], atol=1e-5)
        assert (values[~mask] == 0).all()
        # Without lengths, the third response ends with the last token that the policy chose.
        third = 2 if response_lengths is None else 3
        ends = torch.stack([expected[0][4], expected[1][2], expected[2][third]])
        assert torch.allclose(last_values, ends, atol=1e-5)
        assert values.dtype == last_values.dtype == torch.float32


def test_a_value_head_starts_at_zero_and_reads_any_precision() -> None:
    head = ValueHead(16)
    values = head(torch.randn(5, 16, dtype=torch.bfloat16))
    assert values.shape == (5,)
    assert values.dtype == torch.float32
    assert not values.any()


def test_logprobs_do_not_depend_on_the_value_head() -> None:
    policy = Policy(tiny_llama())
    without = policy.logprobs(*arguments(), prompt_index=INDEX)
    with_head = policy.logprobs(*arguments(), prompt_index=INDEX, value_head=random_head())
    assert torch.allclose(without.logprobs, with_head.logprobs, atol=1e-6)


def test_the_value_loss_reaches_a_shared_trunk_and_not_a_policy_with_a_critic_apart() -> None:
    policy, head = Policy(tiny_llama()), random_head()
    critic = Critic(policy)
    critic.value_head.load_state_dict(head.state_dict())
    values, last_values = critic.values(*arguments(), prompt_index=INDEX)
    (values.sum() + last_values.sum()).backward()
    assert all(p.grad is None for p in policy.model.parameters())
    scores = policy.logprobs(*arguments(), prompt_index=INDEX, value_head=head)
    (scores.values.sum() + scores.last_values.sum()).backward()
    for mine, theirs in zip(critic.model.model.parameters(), policy.model.model.parameters(), strict=True):
        assert mine.grad.any()
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
    assert policy.model.lm_head.weight.grad is None


def test_a_critic_has_no_output_layer_and_does_not_follow_the_policy() -> None:
    policy = Policy(tiny_llama())
    critic = Critic(policy)
    assert not any("lm_head" in name for name, _ in critic.named_parameters())
    assert policy.model.get_output_embeddings().weight.shape == (9, 16)
    critic.value_head.load_state_dict(random_head().state_dict())
    before = critic.values(*arguments(), prompt_index=INDEX)[0]
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
    assert torch.equal(critic.values(*arguments(), prompt_index=INDEX)[0], before)


def test_a_critic_comes_back_from_its_state() -> None:
    critic, other = Critic(Policy(tiny_llama(seed=1))), Critic(Policy(tiny_llama(seed=2)))
    critic.value_head.load_state_dict(random_head().state_dict())
    other.load_state_dict(critic.state_dict())
    expected, actual = (c.values(*arguments(), prompt_index=INDEX) for c in (critic, other))
    assert torch.equal(expected[0], actual[0])
    assert torch.equal(expected[1], actual[1])


def test_a_critic_shares_prompts_and_checkpoints_like_its_policy() -> None:
    policy = Policy(tiny_llama(), gradient_checkpointing=True)
    critic = Critic(policy)
    critic.value_head.load_state_dict(random_head().state_dict())
    runs: list[int] = []
    critic.model.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    prompt_ids, lengths, responses, mask = arguments()
    states = critic.prompt_states(prompt_ids, lengths)
    values, _ = critic.values(prompt_ids, lengths, responses, mask, prompts=states, prompt_index=INDEX)
    values.sum().backward()
    assert len(runs) == 4
    plain = Critic(Policy(tiny_llama()))
    plain.value_head.load_state_dict(random_head().state_dict())
    assert torch.allclose(values, plain.values(*arguments(), prompt_index=INDEX)[0], atol=1e-5)
