"""The step that a GPU replays gives what the model's own code gives; here it runs without being recorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llmgym.agents import cache, static_decoding  # noqa: E402
from llmgym.agents.architectures import read_decoder  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.static_decoding import StaticDecoder  # noqa: E402
from tests.parity.test_fused_decoding import VARIANTS, make_model, play_both  # noqa: E402
from tests.parity.test_policy_parity import observe  # noqa: E402


class StaticPolicy(Policy):
    """Decodes on a CPU as it would on a GPU."""

    @property
    def device(self) -> Any:
        return SimpleNamespace(type="cuda")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_of_fixed_shapes_plays_the_same_episodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few columns at a time that several widths, and a cache that grows in between, take part."""
    monkeypatch.setattr(static_decoding, "_COLUMNS", 8)
    monkeypatch.setattr(cache, "_FIRST_CAPACITY", 4)
    policies = [StaticPolicy(make_model(name), seed=5), Policy(make_model(name), seed=5, fused=False)]
    torch.manual_seed(0)
    head = torch.nn.Linear(policies[0].hidden_size, 1).double()
    for policy in policies:
        policy.value_head = lambda hidden: head(hidden)[:, 0]
    for (actions, logprobs, values), (expected, of_module, their_values) in play_both(policies, 45, seed=len(name)):
        assert actions.tolist() == expected.tolist()
        assert np.abs(logprobs - of_module).max() < 2e-6  # both are handed out in float32
        assert np.abs(values - their_values).max() < 2e-6
    decoder = policies[0]._decoder
    assert isinstance(decoder, StaticDecoder)
    assert len({width for _, width in decoder._steps}) > 1
    assert {n_rows for n_rows, _ in decoder._steps} <= {1, 2, 4, 7}


def test_weights_changed_in_place_count_at_once_and_others_need_new_steps() -> None:
    policy = StaticPolicy(make_model("qwen2"))
    known = read_decoder(policy.model)
    decoder = StaticDecoder(policy.model, known, 2)
    with torch.no_grad():
        before, _ = decoder._singles(np.array([3, 4]))
        decoder.cache.clear()
        policy.model.model.norm.weight.mul_(2.0)
        after, _ = decoder._singles(np.array([3, 4]))
    assert torch.allclose(after, 2.0 * before)
    assert decoder.reads(known)
    policy.model.to(torch.float32)  # other memory
    assert not decoder.reads(read_decoder(policy.model))


def test_a_cache_that_a_step_made_larger_takes_the_next_prompt() -> None:
    policies = [StaticPolicy(make_model("llama"), seed=1), Policy(make_model("llama"), seed=1, fused=False)]
    transcripts = [[3, 4, 5], [6, 7]]
    for step in range(4):
        restarted = np.array([step == 0, step in (0, 2)])
        if step == 2:
            transcripts[1] = [8, 9, 3]
        (actions, logprobs), (expected, others) = (p.act(observe(transcripts), restarted) for p in policies)
        assert actions.tolist() == expected.tolist()
        assert np.abs(logprobs - others).max() < 2e-6
        for slot in range(2):
            transcripts[slot].append(int(actions[slot]))


def test_weights_put_elsewhere_count_after_forget() -> None:
    policy, plain = StaticPolicy(make_model("llama"), seed=1), Policy(make_model("llama"), seed=1, fused=False)
    prompt = observe([[3, 4, 5]])
    for mine in (policy, plain):
        mine.act(prompt)
        weights = {name: 1.1 * weight for name, weight in mine.model.state_dict().items()}
        mine.model.load_state_dict(weights, assign=True)
        mine.forget()
    transcript = [3, 4, 5]
    for _ in range(3):
        (action, logprob), (expected, other) = (p.act(observe([transcript])) for p in (policy, plain))
        assert action.tolist() == expected.tolist()
        assert np.abs(logprob - other).max() < 2e-6
        transcript.append(int(action[0]))


@pytest.mark.parametrize(("n", "rounded"), [(1, 1), (3, 4), (33, 64), (64, 64), (65, 128), (200, 256)])
def test_rows_are_rounded_up(n: int, rounded: int) -> None:
    assert static_decoding._rounded(n) == rounded
