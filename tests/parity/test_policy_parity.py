"""Acting with the slot cache, and learning with shared prompts, give what a plain full forward pass gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llmgym.agents.policies import Policy  # noqa: E402

V = 61
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": V, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 1}
GPT2["eos_token_id"] = 2
OPT = {
    "vocab_size": V, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen3": ("Qwen3Config", SMALL | {"head_dim": 16}),
    "gpt2": ("GPT2Config", GPT2),
    "mistral_window": ("MistralConfig", SMALL | {"sliding_window": 5}),
    "gemma2_window": ("Gemma2Config", SMALL | {"sliding_window": 5, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "phi": ("PhiConfig", SMALL),
    "opt": ("OPTConfig", OPT),
}
#: Every architecture as it is run by default, and by its own code where that is not the same.
RUNS = [
    (name, fused) for name in ARCHITECTURES for fused in (True, False) if fused or name in ("llama", "qwen2", "qwen3")
]


def make_model(name: str) -> Any:
    torch.manual_seed(0)
    class_name, arguments = ARCHITECTURES[name]
    config = getattr(transformers, class_name)(**arguments)
    # Larger weights than usual: near-uniform outputs would hide a mistake.
    config.initializer_range = 0.2
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.eval()


def observe(transcripts: list[list[int]], width: int = 40) -> dict[str, Any]:
    ids = np.zeros((len(transcripts), width), dtype=np.int32)
    mask = np.zeros((len(transcripts), width), dtype=np.int8)
    for row, transcript in enumerate(transcripts):
        ids[row, : len(transcript)] = transcript
        mask[row, : len(transcript)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def full_logprobs(model: Any, transcript: list[int]) -> Any:
    """Next-token log-probabilities after each token, by one plain pass over one unpadded transcript."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([transcript])).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize(("name", "fused"), RUNS)
def test_acting_equals_a_full_forward_pass(name: str, fused: bool) -> None:
    """Uneven lengths, shared prompts, restarts, environment text and waiting slots, on one stretch of 14 steps."""
    reference = make_model(name)
    policy = Policy(make_model(name), seed=3, fused=fused)
    rng = np.random.default_rng(0)

    def prompt(length: int) -> list[int]:
        return rng.integers(3, V, size=length).tolist()

    shared = prompt(7)
    transcripts = [prompt(3), list(shared), list(shared), prompt(1), prompt(12)]
    n = len(transcripts)
    restarted, waiting = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for step in range(14):
        actions, logprobs = policy.act(observe(transcripts), restarted, waiting)
        for slot in range(n):
            if waiting[slot]:
                assert actions[slot] == -1
                assert logprobs[slot] == 0
                continue
            expected = full_logprobs(reference, transcripts[slot])[-1, actions[slot]].item()
            assert logprobs[slot] == pytest.approx(expected, abs=1e-5), (step, slot)
            transcripts[slot].append(int(actions[slot]))
        restarted[:] = False
        if step in (2, 6):  # the environment writes, several slots at once, different amounts
            transcripts[0] += prompt(4)
            transcripts[4] += prompt(2)
        if step == 4:  # a row in the middle starts anew, with a shorter transcript
            transcripts[1], restarted[1] = prompt(2), True
        if step == 5:  # rows leave: the others move together
            waiting[[0, 3]] = True
        if step == 8:  # they come back with new episodes, one shares a running slot's text
            waiting[[0, 3]] = False
            restarted[[0, 3]] = True
            transcripts[0], transcripts[3] = prompt(5), list(transcripts[2])
        if step == 10:  # all leave but one
            waiting[:] = True
            waiting[2] = False


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pad", [0, 5])
def test_learning_equals_a_full_forward_pass(name: str, pad: int) -> None:
    """Log-probabilities, entropy and gradient, whatever padding is added."""
    reference, model = make_model(name), make_model(name)
    policy = Policy(model, temperature=0.7)
    torch.manual_seed(1)
    prompt_lengths = torch.tensor([4, 1, 9])
    prompts = torch.randint(3, V, (3, 9 + pad))
    index = torch.tensor([0, 0, 1, 2, 2])
    response_lengths = [3, 6, 2, 5, 1]
    responses = torch.randint(3, V, (5, 6 + pad))
    mask = torch.arange(6 + pad)[None] < torch.tensor(response_lengths)[:, None]
    mask[1, 2:4] = False  # written by the environment
    scores = policy.logprobs(prompts, prompt_lengths, responses, mask, prompt_index=index, with_entropy=True)
    logprobs, entropy = scores.logprobs, scores.entropy
    weights = torch.randn(5, 6 + pad).masked_fill(~mask, 0.0)
    (logprobs * weights).sum().backward()

    total = torch.zeros(())
    for row, p in enumerate(index.tolist()):
        sequence = torch.cat([prompts[p, : prompt_lengths[p]], responses[row, : response_lengths[row]]])
        logits = reference(input_ids=sequence[None]).logits[0] / 0.7
        start = int(prompt_lengths[p]) - 1
        expected = logits.log_softmax(-1)[start:-1].gather(1, sequence[start + 1 :, None])[:, 0]
        chosen = mask[row, : response_lengths[row]]
        assert torch.allclose(logprobs[row, : len(chosen)][chosen], expected[chosen], atol=1e-5)
        nats = torch.distributions.Categorical(logits=logits[start:-1]).entropy()
        assert torch.allclose(entropy[row, : len(chosen)][chosen], nats[chosen], atol=1e-4)
        total = total + (expected * weights[row, : len(chosen)]).sum()
    total.backward()
    assert (logprobs[~mask] == 0).all()
    for (key, mine), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=2e-4, rtol=1e-3), key


def test_gradient_through_shared_prompts_may_be_collected_in_pieces() -> None:
    """Microbatches over detached prompt states give the gradient of one pass."""
    torch.manual_seed(2)
    prompts, lengths = torch.randint(3, V, (2, 5)), torch.tensor([5, 3])
    responses, mask = torch.randint(3, V, (4, 6)), torch.ones(4, 6, dtype=torch.bool)
    index = torch.tensor([0, 0, 1, 1])
    gradients = []
    for pieces in ([[0, 1, 2, 3]], [[0, 2], [3], [1]]):
        model = make_model("llama")
        policy = Policy(model)
        states = policy.prompt_states(prompts, lengths)
        leaves = states.detached()
        for rows in pieces:
            part = policy.logprobs(
                prompts, lengths, responses[rows], mask[rows], prompts=leaves, prompt_index=index[rows]
            ).logprobs
            (part**2).sum().backward()
        states.backward(leaves)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)
