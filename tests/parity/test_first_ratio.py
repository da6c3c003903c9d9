"""The ratio of the first minibatch is 1: what sampling did, token by token in a cache, is what learning scores.

For every architecture, with every option of the distribution, with prompts of unlike lengths, with text of the
environment's in between, with padding on both; in float32 to rounding, in bfloat16 within a measured bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.sampling import unpack_sets  # noqa: E402
from tests.parity.test_policy_parity import RUNS, make_model, observe  # noqa: E402

STEPS = 10
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "all": {
        "temperature": 1.7,
        "top_k": 9,
        "top_p": 0.6,
        "n_actions": 50,
        "forbidden": {5: [6, 7], 9: list(range(3, 40))},
    },
}


class Played(NamedTuple):
    """Arguments of ``Policy.logprobs``, and what sampling said."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    sampled: Any


def play(policy: Policy, pad: int = 0) -> Played:
    """Ten steps in six slots; the environment writes into two of them, two share a prompt, one sits out at times."""
    prompts = [[3, 5], [9], [4, 4, 9, 8, 7], [4, 4, 9, 8, 7], [11, 12, 13, 14, 15, 16, 17, 18], [6, 6]]
    index = [0, 1, 2, 2, 3, 4]
    transcripts = [list(prompt) for prompt in prompts]
    width, n_bytes = STEPS + 6 + pad, -(-policy.n_actions // 8)
    mask = torch.zeros(6, width, dtype=torch.bool)
    sampled = torch.zeros(6, width)
    allowed = torch.zeros(6, width, n_bytes, dtype=torch.uint8)
    restarted, waiting = np.ones(6, dtype=bool), np.zeros(6, dtype=bool)
    for step in range(STEPS):
        waiting[5] = step in (3, 4)
        actions, logprobs = policy.act(observe(transcripts), restarted, waiting)
        restarted[:] = False
        for slot in np.flatnonzero(~waiting):
            at = len(transcripts[slot]) - len(prompts[slot])
            mask[slot, at], sampled[slot, at] = True, float(logprobs[slot])
            if policy.last_allowed is not None:
                allowed[slot, at] = torch.from_numpy(policy.last_allowed[slot])
            transcripts[slot].append(int(actions[slot]))
        if step == 4:
            transcripts[0] += [20, 21, 22]
            transcripts[4] += [23]
    responses = torch.full((6, width), 2)  # padding is a token like any other
    for slot, transcript in enumerate(transcripts):
        written = transcript[len(prompts[slot]) :]
        responses[slot, : len(written)] = torch.tensor(written)
    distinct = [prompts[i] for i in (0, 1, 2, 4, 5)]
    prompt_ids = torch.full((5, 8 + pad), 2)
    for row, prompt in enumerate(distinct):
        prompt_ids[row, : len(prompt)] = torch.tensor(prompt)
    lengths = torch.tensor([len(prompt) for prompt in distinct])
    options = {"prompt_index": torch.tensor(index), "allowed": allowed if policy.last_allowed is not None else None}
    return Played((prompt_ids, lengths, responses, mask), options, sampled)


def ratio_errors(policy: Policy, played: Played) -> Any:
    mask = played.arguments[3]
    scores = policy.logprobs(*played.arguments, **played.options)
    return ((scores.logprobs.detach() - played.sampled)[mask].exp() - 1.0).abs()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("name", "fused"), RUNS)
def test_the_first_ratio_is_one(name: str, fused: bool, options: str) -> None:
    policy = Policy(make_model(name), seed=1, fused=fused, **OPTIONS[options])
    for pad in (0, 7):
        policy.forget()
        played = play(policy, pad)
        assert played.arguments[3].sum() == 6 * STEPS - 2
        assert ratio_errors(policy, played).max() < 2e-5
    if policy.truncates:
        sizes = unpack_sets(played.options["allowed"], policy.n_actions)[played.arguments[3]].sum(1)
        assert sizes.min() >= 1
        assert sizes.float().mean() < 0.5 * policy.n_actions
        assert sizes.unique().numel() > 1 or options == "top_k"


@pytest.mark.parametrize(("name", "fused"), RUNS)
def test_in_bfloat16_the_first_ratio_is_nearly_one(name: str, fused: bool) -> None:
    """A cache adds in another order than a whole pass, and the last place of a bfloat16 logit is 1/64 where it is 3.

    Measured on a CPU over all options and four seeds: at most 0.016 from 1 for one token, 0.0002 in the mean.
    """
    for options in ({}, OPTIONS["all"]):
        policy = Policy(make_model(name).to(torch.bfloat16), seed=2, fused=fused, **options)
        errors = ratio_errors(policy, play(policy))
        assert errors.max() < 0.06
        assert errors.mean() < 0.002


def test_a_set_made_anew_would_not_do() -> None:
    """After an update the best tokens are others: learning has to use the sets of sampling, and says so."""
    policy = Policy(make_model("llama"), top_k=3)
    played = play(policy)
    with pytest.raises(ValueError, match="Expected `allowed`"):
        policy.logprobs(*played.arguments, prompt_index=played.options["prompt_index"])
    before = policy.logprobs(*played.arguments, **played.options).logprobs
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = policy.logprobs(*played.arguments, **played.options).logprobs
    assert after.isfinite().all()
    assert not torch.allclose(before, after, atol=0.1)


def test_the_reference_is_scored_on_the_same_sets() -> None:
    """Right after the copy there is no distance to it, truncated or not."""
    policy = Policy(make_model("qwen2"), temperature=0.8, top_p=0.7, forbidden={3: [5]}, n_actions=55)
    played = play(policy)
    reference = policy.frozen_copy()
    assert reference.options == policy.options
    mine = policy.logprobs(*played.arguments, **played.options).logprobs
    assert torch.equal(mine, reference.logprobs(*played.arguments, **played.options).logprobs)
    assert torch.allclose(mine, played.sampled, atol=1e-5)
