"""Supervised fine-tuning: the loss against an independent one, batches without loss, determinism."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from llmgym.agents.sft import SFT, SFTConfig, batches, response_cross_entropy
from tests.unit.agent_fakes import tiny_llama


def tiny_model() -> PreTrainedModel:
    return tiny_llama(vocab_size=17, initializer_range=0.02).eval()


def examples(n: int | None = None):
    rng = np.random.default_rng(0)
    numbers = itertools.count() if n is None else range(n)
    for _ in numbers:
        prompt = rng.integers(1, 17, rng.integers(1, 6)).tolist()
        yield prompt, [*prompt[::-1], 0]


def test_loss_is_the_mean_negative_log_likelihood_of_response_tokens():
    model = tiny_model()
    rows = [([3, 5], [7, 2, 1]), ([4], [9]), ([1, 2, 3, 4], [8, 8])]
    config = SFTConfig(tokens_per_microbatch=10, microbatches=3)
    (batch,) = batches(iter(rows), config)
    assert len(batch) > 1
    expected, n_tokens = 0.0, 0
    with torch.no_grad():
        for prompt, response in rows:  # row by row, without padding, in float64
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
            for i, token in enumerate(response):
                expected -= float(logits[len(prompt) + i - 1].log_softmax(-1)[token])
                n_tokens += 1
        loss = sum(float(response_cross_entropy(model, *microbatch)) for microbatch in batch)
    assert loss == pytest.approx(expected, rel=1e-5)

    # What the optimizer sees does not depend on how the batch was cut.
    losses = []
    for tokens_per_microbatch in (10, 1000):
        config = SFTConfig(tokens_per_microbatch=tokens_per_microbatch, microbatches=3)
        SFT(tiny_model(), iter(rows), config).learn(1, callback=lambda _, value: losses.append(value))
    assert losses == pytest.approx([expected / n_tokens] * 2, rel=1e-5)


def test_batches_hold_every_example_once():
    config = SFTConfig(tokens_per_microbatch=32, microbatches=3, pool_size=50)
    seen, shares = [], []
    for batch in batches(examples(130), config):
        assert all(input_ids.numel() <= 32 for input_ids, _, _ in batch)
        for input_ids, prompt_lengths, lengths in batch:
            for row, p, n in zip(input_ids.tolist(), prompt_lengths.tolist(), lengths.tolist(), strict=True):
                seen.append((tuple(row[:p]), tuple(row[p:n])))
        shares.append(np.mean([float(lengths.float().mean()) for _, _, lengths in batch]))
    assert sorted(seen) == sorted((tuple(p), tuple(r)) for p, r in examples(130))
    assert max(shares) - min(shares) < 4, "each batch has short and long examples"


@pytest.mark.parametrize("muon_learning_rate", [0.0, 0.02])
def test_learning_lowers_the_loss_and_repeats_itself(muon_learning_rate):
    config = SFTConfig(
        tokens_per_microbatch=256, microbatches=2, pool_size=256, muon_learning_rate=muon_learning_rate, warmup_steps=5
    )
    runs = []
    for _ in range(2):
        losses = []
        model = tiny_model()
        done = SFT(model, examples(), config).learn(40, callback=lambda _, loss, to=losses: to.append(loss))
        assert done == 40 and not model.training
        runs.append((losses, [p.clone() for p in model.parameters()]))
    assert np.mean(runs[0][0][-5:]) < 0.95 * np.mean(runs[0][0][:3])
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_a_budget_is_asked_for():
    with pytest.raises(ValueError, match="n_steps"):
        SFT(tiny_model(), examples()).learn()
    with pytest.raises(ValueError, match="n_steps=0"):
        SFT(tiny_model(), examples()).learn(0)
    with pytest.raises(ValueError, match="max_seconds=0"):
        SFT(tiny_model(), examples()).learn(max_seconds=0)


def test_muon_takes_the_matrices_of_the_blocks():
    """Of a Llama the parameters under ``layers``, in the order of the model: the shipped weights depend on it."""
    model = tiny_model()
    (adamw, _), (muon, _) = SFT(model, examples())._optimizers
    blocks = {p for p in model.model.layers.parameters() if p.ndim == 2}
    others = [p for p in model.parameters() if p not in blocks]
    expected = [
        [p for p in others if p.ndim >= 2],
        [p for p in others if p.ndim < 2],
        [p for p in model.parameters() if p in blocks],
    ]
    actual = [group["params"] for optimizer in (adamw, muon) for group in optimizer.param_groups]
    assert [[id(p) for p in group] for group in actual] == [[id(p) for p in group] for group in expected]
    assert len(blocks) == 14


def test_a_decoder_whose_blocks_have_another_name():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=17, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    sft = SFT(model, examples(), SFTConfig(tokens_per_microbatch=64, microbatches=1, pool_size=16, warmup_steps=0))
    (_, _), (muon, _) = sft._optimizers
    blocks = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(p) for p in blocks]
    before = [p.detach().clone() for p in blocks]
    assert sft.learn(1) == 1
    assert not any(torch.equal(a, b) for a, b in zip(before, blocks, strict=True))
