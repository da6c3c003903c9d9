"""The gradients written by hand, against finite differences and against transformers' own code in float64."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.autograd import gradcheck  # noqa: E402

from llmgym.agents import fused_learning  # noqa: E402
from llmgym.agents.architectures import read_decoder  # noqa: E402
from llmgym.agents.critics import Critic, ValueHead  # noqa: E402
from llmgym.agents.fused_functions import AfterAttention, BeforeAttention, Heads, RMSNorm, ShortAttention  # noqa: E402
from llmgym.agents.packing import pack  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.scoring import ChosenLogprobs  # noqa: E402
from llmgym.agents.trunks import Trunk  # noqa: E402

V = 23
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "llama_biases": ("LlamaConfig", SMALL | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", SMALL | {"sliding_window": None}),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen3": ("Qwen3Config", SMALL | {"head_dim": 6}),
    "tied": ("Qwen3Config", SMALL | {"head_dim": 4, "tie_word_embeddings": True}),
}


def make_model(name: str, dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    class_name, arguments = KNOWN[name]
    config = getattr(transformers, class_name)(**arguments)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains and biases too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def in_float64(model: Any) -> Any:
    """The same with norms in float64, which transformers' code computes in float32 whatever it is given."""

    def forward(self: Any, x: Any) -> Any:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(forward, module)
    return model


class Groups:
    """A shared prompt of four tokens, one of one token, one with a single reader, one that nobody continues.

    Responses of one to nine tokens; the environment wrote in the middle of one and at the end of another.
    """

    prompt_lengths = torch.tensor([4, 1, 9, 3])
    index = torch.tensor([0, 0, 1, 2, 1, 0, 0])
    lengths = torch.tensor([3, 9, 2, 5, 1, 4, 3])
    chosen = torch.tensor([3, 9, 2, 5, 1, 4, 2])

    def __init__(self, stretch: int = 1) -> None:
        torch.manual_seed(1)
        self.prompt_lengths, self.chosen = self.prompt_lengths * stretch, self.chosen * stretch
        self.lengths = torch.maximum(self.lengths * stretch, self.chosen)
        self.prompts = torch.randint(0, V, (4, 10 * stretch))
        self.responses = torch.randint(0, V, (7, 10 * stretch))
        self.mask = torch.arange(10 * stretch) < self.chosen[:, None]
        self.mask[1, 2 * stretch : 4 * stretch] = False

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.prompts, self.prompt_lengths, self.responses, self.mask

    def transcript(self, row: int) -> Any:
        prompt = self.prompts[self.index[row], : self.prompt_lengths[self.index[row]]]
        return torch.cat([prompt, self.responses[row, : self.lengths[row]]])

    def hidden_by_hand(self, model: Any) -> tuple[Any, Any]:
        """Where tokens were chosen and after the last ones, by one plain pass over each whole transcript."""
        chosen, last = [], []
        for row, index in enumerate(self.index):
            hidden = model.model(input_ids=self.transcript(row)[None]).last_hidden_state[0]
            chosen.append(hidden[self.prompt_lengths[index] - 1 + self.mask[row].nonzero()[:, 0]])
            last.append(hidden[-1])
        return torch.cat(chosen), torch.stack(last)


def gradients(model: Any) -> dict[str, Any]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(("checkpointing", "nearly_all"), [(False, 0.0), (False, 2.0), (True, 2.0)])
def test_states_and_gradients_are_those_of_transformers(
    name: str, checkpointing: bool, nearly_all: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_learning, "_NEARLY_ALL", nearly_all)  # whether the last layer computes what nobody reads
    groups, model = Groups(), make_model(name)
    reference = in_float64(model)
    trunk = Trunk(model, gradient_checkpointing=checkpointing)
    reading = trunk.read(*groups.arguments, prompt_index=groups.index, response_lengths=groups.lengths, with_last=True)
    chosen, last = groups.hidden_by_hand(reference)
    assert torch.allclose(reading.hidden, chosen, rtol=0, atol=1e-12)
    assert torch.allclose(reading.last_hidden, last, rtol=0, atol=1e-12)
    weights = torch.randn_like(chosen), torch.randn_like(last)
    for states in ((reading.hidden, reading.last_hidden), (chosen, last)):
        sum((state * weight).sum() for state, weight in zip(states, weights, strict=True)).backward()
    mine, theirs = gradients(model), gradients(reference)
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert torch.allclose(mine[key], theirs[key], rtol=1e-10, atol=1e-10), key
    assert (mine["model.embed_tokens.weight"][0] == 0).all()  # as the model has it: the padding token learns nothing
    assert (groups.prompts == 0).any()


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_long_sequences_take_another_attention_to_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Groups(stretch=13)
    assert int(groups.prompt_lengths[0] + groups.lengths[1]) > 96
    results = []
    for short in (0, 96, 1000):
        monkeypatch.setattr(fused_learning, "_SHORT", short)
        model = make_model(name)
        reading = Trunk(model).read(*groups.arguments, prompt_index=groups.index)
        (reading.hidden**2).sum().backward()
        results.append([reading.hidden, *gradients(model).values()])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_critic_without_output_layer_is_read_too(name: str) -> None:
    groups, policy = Groups(), Policy(make_model(name))
    critic = Critic(policy)
    decoder = read_decoder(critic.model)
    assert decoder is not None
    assert decoder.head is None
    critic.value_head = ValueHead(16).double()
    torch.nn.init.normal_(critic.value_head.linear.weight)
    plain = Critic(policy)
    plain.value_head, plain._trunk.fused = critic.value_head, False
    options: dict[str, Any] = {"prompt_index": groups.index, "response_lengths": groups.lengths}
    critic.value_head.forward = lambda hidden: critic.value_head.linear(hidden).squeeze(-1)  # type: ignore[method-assign]
    for mine, theirs in zip(
        critic.values(*groups.arguments, **options), plain.values(*groups.arguments, **options), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-4)  # norms in float32 on the other side


def test_the_last_layer_leaves_out_what_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, computed = Groups(), list[int]()
    apply = AfterAttention.apply

    def counted(*arguments: Any) -> Any:
        after = apply(*arguments)
        computed.append(len(after))
        return after

    monkeypatch.setattr(fused_learning.AfterAttention, "apply", counted)
    Trunk(make_model("llama")).read(*groups.arguments, prompt_index=groups.index)
    packing = pack(*groups.arguments, prompt_index=groups.index)
    assert len(packing.wanted) < 0.9 * len(packing.ids)
    assert computed == [len(packing.ids)] * (len(computed) - 1) + [len(packing.wanted)]


def test_what_is_unusual_is_left_to_the_models_own_code() -> None:
    groups = Groups()
    model = make_model("llama", torch.float32)
    policy, plain = Policy(model), Policy(copy.deepcopy(model), fused=False)
    expected = plain.logprobs(*groups.arguments, prompt_index=groups.index).logprobs
    states = policy.prompt_states(*groups.arguments[:2])
    assert states.read_with_responses
    assert not plain.prompt_states(*groups.arguments[:2]).read_with_responses
    calls: list[int] = []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    for prompts in (None, policy.prompt_states(*groups.arguments[:2])):  # a hook wants to see every pass
        actual = policy.logprobs(*groups.arguments, prompts=prompts, prompt_index=groups.index).logprobs
        assert torch.equal(actual, expected)
    assert len(calls) == 4
    handle.remove()
    actual = policy.logprobs(*groups.arguments, prompts=states, prompt_index=groups.index).logprobs
    assert len(calls) == 4
    assert torch.allclose(actual, expected, atol=1e-4)


def test_bfloat16_differs_by_its_own_rounding() -> None:
    """Not more than the model's own code does, from the same weights in float32."""
    groups = Groups()
    errors = {}
    for fused in (True, False):
        half = Policy(make_model("qwen3", torch.bfloat16), fused=fused)
        exact = Policy(copy.deepcopy(half.model).float(), fused=False)
        scores = [policy.logprobs(*groups.arguments, prompt_index=groups.index) for policy in (half, exact)]
        for score in scores:
            score.logprobs.sum().backward()
        assert scores[0].logprobs.dtype == torch.float32
        assert all(p.grad.dtype == torch.bfloat16 for p in half.model.parameters())
        norms = [torch.cat([p.grad.float().flatten() for p in policy.model.parameters()]) for policy in (half, exact)]
        errors[fused] = (
            (scores[0].logprobs - scores[1].logprobs).abs().mean().item(),
            ((norms[0] - norms[1]).norm() / norms[1].norm()).item(),
        )
    assert errors[True][0] <= 1.2 * errors[False][0]
    assert errors[True][1] <= 1.2 * errors[False][1]


# -- finite differences -----------------------------------------------------------------------------------------------


def numbers(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def packing_of_groups() -> Any:
    groups = Groups()
    return pack(*groups.arguments, groups.index)


def test_gradient_of_the_norm() -> None:
    assert gradcheck(lambda x, gain: RMSNorm.apply(x, gain, 1e-3), (numbers(5, 4), numbers(4)))


@pytest.mark.parametrize("with_gains", [False, True])
def test_gradient_before_attention(with_gains: bool) -> None:
    torch.manual_seed(2)
    packing, heads = packing_of_groups(), Heads(2, 1, 4)
    n = len(packing.ids)
    turns = torch.polar(torch.ones(n, 1, 2, dtype=torch.float64), torch.randn(n, 1, 2, dtype=torch.float64))
    gains = (numbers(4), numbers(4)) if with_gains else (None, None)
    biases = (None,) * 3 if with_gains else (numbers(8), numbers(4), numbers(4))
    assert any(bucket.keys is not None for bucket in packing.buckets)
    assert any(bucket.places is not None for bucket in packing.buckets)

    def function(x: Any, gain: Any, *rest: Any) -> Any:
        q_gain, k_gain, q, k, v, *given = rest
        geometry = (heads, 1e-3, packing.buckets)
        parts = list(BeforeAttention.apply(x, gain, q_gain, k_gain, turns, geometry, None, q, k, v, *given))
        for place, bucket in enumerate(packing.buckets):  # what stands at padding gets no gradient from attention
            if bucket.inverse is not None:
                parts[2 * place] = parts[2 * place].flatten(0, 1)[bucket.inverse]
                if bucket.keys is None:
                    parts[2 * place + 1] = parts[2 * place + 1].flatten(0, 1)[bucket.inverse]
        return tuple(parts)

    assert gradcheck(
        function, (numbers(n, 3), numbers(3), *gains, numbers(8, 3), numbers(4, 3), numbers(4, 3), *biases)
    )


def test_gradient_of_attention() -> None:
    torch.manual_seed(3)
    mask = torch.zeros(2, 1, 3, 5, dtype=torch.float64).masked_fill_(torch.rand(2, 1, 3, 5) < 0.3, float("-inf"))
    mask[..., 0] = 0.0
    queries, keys_and_values = numbers(2, 3, 4, 2), numbers(2, 5, 2, 2, 2)
    assert gradcheck(lambda q, kv: ShortAttention.apply(q, kv, mask, True), (queries, keys_and_values))
    keys, values = keys_and_values.transpose(1, 3).unbind(2)
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=True
    )
    assert torch.allclose(ShortAttention.apply(queries, keys_and_values, mask, True).transpose(1, 2), expected)


@pytest.mark.parametrize("with_biases", [False, True])
def test_gradient_after_attention(with_biases: bool) -> None:
    torch.manual_seed(4)
    packing = packing_of_groups()
    n, hidden, inner = len(packing.ids), 3, 2
    attended = [numbers(*bucket.shape, 2, 1) for bucket in packing.buckets]
    matrices = numbers(hidden, 2), numbers(inner, hidden), numbers(inner, hidden), numbers(hidden, inner)
    biases = (numbers(hidden), numbers(inner), numbers(inner), numbers(hidden)) if with_biases else (None,) * 4

    def function(x: Any, gain: Any, *rest: Any) -> Any:
        return AfterAttention.apply(x, gain, (1e-3, packing.buckets, wanted), None, None, *rest)

    inputs = (numbers(n, hidden), numbers(hidden), *matrices, *biases, *attended)
    wanted: Any = None
    assert gradcheck(function, inputs)
    everything, wanted = function(*inputs), torch.tensor([n - 1, 0, 3])
    assert torch.allclose(function(*inputs), everything[wanted], rtol=0, atol=1e-14)
    assert gradcheck(function, inputs)
    wanted = torch.tensor([], dtype=torch.long)
    known = [x for x in inputs if x is not None]
    assert all((grad == 0).all() for grad in torch.autograd.grad(function(*inputs).sum(), known))


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_gradient_of_logprobs_and_entropy(entropy_gradient: bool) -> None:
    torch.manual_seed(5)
    forbidden = torch.zeros(4, 6, dtype=torch.bool)
    forbidden[0, 2:] = forbidden[1, 0] = forbidden[3, 1:] = True
    chosen = torch.tensor([1, 3, 5, 0])

    def function(logits: Any) -> Any:
        logits = logits.masked_fill(forbidden, float("-inf"))
        logprobs, entropy = ChosenLogprobs.apply(logits, chosen, True, entropy_gradient)
        assert entropy.requires_grad == entropy_gradient
        return (logprobs, entropy) if entropy_gradient else logprobs

    logits = numbers(4, 6)
    assert gradcheck(function, (logits,))
    masked = logits.detach().masked_fill(forbidden, float("-inf"))
    plain = torch.distributions.Categorical(logits=masked)
    logprobs, entropy = ChosenLogprobs.apply(masked, chosen, True, False)
    assert torch.allclose(logprobs, plain.log_prob(chosen))
    assert torch.allclose(entropy, plain.entropy())
    assert ChosenLogprobs.apply(masked, chosen, False, False)[1] is None
