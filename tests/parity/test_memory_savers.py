"""What saves memory changes no result: logits in chunks, and layers computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llmgym.agents.critics import ValueHead  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.prompt_states import PrefixCache  # noqa: E402
from llmgym.agents.sampling import pack_sets  # noqa: E402
from llmgym.agents.trunks import output_layer  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from tests.parity.test_policy_parity import ARCHITECTURES, SMALL, V, make_model, observe  # noqa: E402

#: Architectures whose code does something after the output layer, or hands more than hidden states to it.
AFTER_THE_HEAD: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2Config", SMALL | {"head_dim": 8, "final_logit_softcapping": 2.0}),
    "granite": ("GraniteConfig", SMALL | {"logits_scaling": 3.0}),
    "cohere": ("CohereConfig", SMALL | {"logit_scale": 0.3}),
    "mixtral": ("MixtralConfig", SMALL | {"num_local_experts": 2}),
    "gpt_neox": ("GPTNeoXConfig", SMALL),
}
ROWS = 4


def make_any(name: str) -> Any:
    if name in ARCHITECTURES:
        return make_model(name)
    torch.manual_seed(0)
    class_name, arguments = AFTER_THE_HEAD[name]
    config = getattr(transformers, class_name)(**arguments)
    config.initializer_range = 0.2
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def batch() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two prompts, five responses, a hole in one, and sets that hold what was chosen."""
    torch.manual_seed(4)
    lengths = torch.tensor([6, 3])
    prompts, responses = torch.randint(3, V, (2, 6)), torch.randint(3, V, (5, 7))
    mask = torch.arange(7)[None] < torch.tensor([7, 3, 5, 6, 1])[:, None]
    mask[0, 2:4] = False
    sets = torch.rand(5, 7, V) < 0.5
    sets.scatter_(2, responses.unsqueeze(2), True)
    return (prompts, lengths, responses, mask), {
        "prompt_index": torch.tensor([0, 0, 1, 1, 1]),
        "allowed": pack_sets(sets),
        "with_entropy": True,
    }


def learn(policy: Policy, head: ValueHead | None = None) -> tuple[Any, dict[str, Any]]:
    """Scores, and the gradient of a sum of all of them in unlike weights."""
    arguments, options = batch()
    scores = policy.logprobs(*arguments, **options, value_head=head)
    torch.manual_seed(5)
    loss = torch.zeros(())
    for part in scores:
        if part is not None:
            loss = loss + (part * torch.randn_like(part)).sum()
    loss.backward()
    model = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
    return scores, model | ({} if head is None else {"head": head.linear.weight.grad})


def same(a: tuple[Any, dict[str, Any]], b: tuple[Any, dict[str, Any]]) -> None:
    for mine, theirs in zip(a[0], b[0], strict=True):
        assert (mine is None and theirs is None) or torch.allclose(mine, theirs, atol=1e-5)
    assert a[1].keys() == b[1].keys()
    for name, gradient in a[1].items():
        assert torch.allclose(gradient, b[1][name], atol=2e-4, rtol=1e-3), name


@contextmanager
def saved_for_backward() -> Iterator[dict[int, tuple[int, tuple[int, ...]]]]:
    """Storages that autograd keeps of what happens within: address -> bytes and shape."""
    saved: dict[int, tuple[int, tuple[int, ...]]] = {}
    alive = []  # an address says nothing once its storage is gone

    def keep(tensor: Any) -> Any:
        alive.append(tensor)
        saved[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


@pytest.mark.parametrize("name", [*ARCHITECTURES, *AFTER_THE_HEAD])
def test_chunks_change_nothing_and_bound_the_logits(name: str) -> None:
    whole, chunked = Policy(make_any(name), temperature=0.8), Policy(make_any(name), temperature=0.8)
    chunked.max_logits = ROWS * V + 1
    rows: list[int] = []
    bodies: list[int] = []
    output_layer(chunked.model).register_forward_hook(lambda _, __, logits: rows.append(logits[..., 0].numel()))
    attention = next(m for m in chunked.model.modules() if "Attention" in type(m).__name__)
    attention.register_forward_hook(lambda *_: bodies.append(1))
    same(learn(whole), learn(chunked))
    n_chosen = int(batch()[0][3].sum())
    n_chunks = -(-n_chosen // ROWS)
    assert max(rows) == ROWS < n_chosen
    assert len(rows) == 2 + 2 * n_chunks  # a row for the prompts, one for the responses; the chunks, and all again
    assert len(bodies) == 2  # the body runs for the prompts and for the responses, not for a chunk


@pytest.mark.parametrize("name", AFTER_THE_HEAD)
def test_what_a_model_does_after_its_output_layer_is_in_the_logprobs(name: str) -> None:
    model, reference = make_any(name), make_any(name)
    prompt, response = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8, 9]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    actual = Policy(model).logprobs(prompt, torch.tensor([4]), response, mask).logprobs
    logits = reference(input_ids=torch.cat([prompt, response], dim=1)).logits[0, 3:-1]
    expected = logits.log_softmax(-1).gather(1, response.T)[:, 0]
    assert torch.allclose(actual[0], expected, atol=1e-5)


def test_no_logits_wait_for_the_backward_pass() -> None:
    arguments, options = batch()
    kept = {}
    for max_logits in (2**25, ROWS * V):
        policy = Policy(make_model("llama"))
        policy.max_logits = max_logits
        with saved_for_backward() as saved:
            scores = policy.logprobs(*arguments, **options)
        kept[max_logits] = [n for n, shape in saved.values() if len(shape) > 1 and shape[-1] == V]
        assert scores.logprobs.requires_grad
    n_chosen = int(arguments[3].sum())
    assert max(kept[2**25]) >= n_chosen * V * 4
    assert kept[ROWS * V] == []


def test_without_gradient_chunks_compute_nothing_twice() -> None:
    policy = Policy(make_model("llama"))
    arguments, options = batch()
    expected = policy.logprobs(*arguments, **options)
    policy.max_logits = 2 * V
    rows: list[int] = []
    output_layer(policy.model).register_forward_hook(lambda _, __, logits: rows.append(logits[..., 0].numel()))
    with torch.no_grad():
        scores = policy.logprobs(*arguments, **options)
    assert torch.allclose(scores.logprobs, expected.logprobs, atol=1e-5)
    assert not scores.entropy.requires_grad
    assert sum(rows) == 2 + int(arguments[3].sum())


def test_a_body_that_cannot_be_passed_over_is_slower_and_no_less_right() -> None:
    whole, chunked = (Policy(make_model("llama"), fused=False) for _ in range(2))
    chunked._trunk._body = torch.nn.Identity()  # as if the model did not call what transformers names its decoder
    chunked.max_logits = ROWS * V
    same(learn(whole), learn(chunked))


def make_with_dropout(name: str) -> Any:
    model = make_model(name)
    n_dropouts = 0
    for module in model.modules():
        for option in ("attention_dropout", "dropout"):  # read in forward, in training mode only
            if isinstance(getattr(module, option, None), float):
                setattr(module, option, 0.5)
                n_dropouts += 1
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
            n_dropouts += 1
    assert n_dropouts >= 3
    return model


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gemma2_window", "opt"])
@pytest.mark.parametrize("chunked", [False, True])
def test_checkpointing_changes_nothing(name: str, chunked: bool) -> None:
    """Prompts stay shared, dropout stays off."""
    plain, again = (
        Policy(make_with_dropout(name)),
        Policy(make_with_dropout(name), gradient_checkpointing=True),
    )
    heads = [ValueHead(policy.hidden_size) for policy in (plain, again)]
    for head, policy in zip(heads, (plain, again), strict=True):
        torch.nn.init.constant_(head.linear.weight, 0.1)
        if chunked:
            policy.max_logits = ROWS * V
    assert (plain.gradient_checkpointing, again.gradient_checkpointing) == (False, True)
    runs: list[int] = []
    attention = next(m for m in again.model.modules() if "Attention" in type(m).__name__)
    attention.register_forward_hook(lambda *_: runs.append(1))
    same(learn(plain, heads[0]), learn(again, heads[1]))
    assert len(runs) == 4  # prompts and responses, forward and again
    assert not again.model.training


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_checkpointing_keeps_less(name: str) -> None:
    """Of each layer only its input (and, of prompts, the states that are shared) waits for the backward pass."""
    policy = Policy(make_model(name))
    arguments, options = batch()
    total = {}
    for policy.gradient_checkpointing in (False, True):
        weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
        with saved_for_backward() as saved:
            states = policy.prompt_states(*arguments[:2])
            scores = policy.logprobs(*arguments, **options, prompts=states.detached())
        total[policy.gradient_checkpointing] = sum(n for where, (n, _) in saved.items() if where not in weights)
        del states, scores
    assert total[True] < 0.4 * total[False]


def test_checkpointed_prompt_states_take_gradients_from_microbatches() -> None:
    arguments, options = batch()
    prompts, lengths, responses, mask = arguments
    gradients = []
    for checkpointing, pieces in ((False, [[0, 1, 2, 3, 4]]), (True, [[0, 2], [4, 1], [3]])):
        model = make_model("llama")
        policy = Policy(model, gradient_checkpointing=checkpointing)
        states = policy.prompt_states(prompts, lengths)
        leaves = states.detached()
        for rows in pieces:
            part = policy.logprobs(
                prompts,
                lengths,
                responses[rows],
                mask[rows],
                prompts=leaves,
                prompt_index=options["prompt_index"][rows],
            ).logprobs
            (part**2).sum().backward()
        states.backward(leaves)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-3, rtol=1e-3)


def test_a_layer_that_comes_again_leaves_the_shared_states_alone() -> None:
    """Those of the second time hold on to the activations that were to be forgotten."""
    cache = PrefixCache(1, None)
    first, second = (torch.randn(1, 1, 2, 4) for _ in range(2))
    cache.update(first, first, 0)
    assert cache.update(second, second, 0)[0] is second
    assert cache.stored[0][0] is first


def test_acting_does_not_notice_checkpointing() -> None:
    plain, again = Policy(make_model("llama")), Policy(make_model("llama"), gradient_checkpointing=True)
    learn(again)
    transcripts = [[3, 4, 5], [6], [7, 8]]
    for _ in range(4):
        expected, actual = plain.act(observe(transcripts)), again.act(observe(transcripts))
        assert np.array_equal(expected[0], actual[0])
        assert np.array_equal(expected[1], actual[1])
        for transcript, action in zip(transcripts, actual[0].tolist(), strict=True):
            transcript.append(action)


def test_a_model_without_layers_to_checkpoint_is_refused() -> None:
    policy = Policy(make_model("llama"))
    policy.model.model.layers = torch.nn.ModuleList()
    with pytest.raises(InvalidOptionError, match="checkpointed, actual: LlamaForCausalLM has none"):
        policy.gradient_checkpointing = True
