"""Learning that begins with what acting computed gives what learning from nothing gives; where it may not, it does not.

In float64, where the two differ by rounding alone, against a policy that keeps nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llmgym.agents import activations, fused_functions, fused_learning  # noqa: E402
from llmgym.agents.activations import Activations  # noqa: E402
from llmgym.agents.critics import ValueHead  # noqa: E402
from llmgym.agents.grpo import GRPO  # noqa: E402
from llmgym.agents.optimizers import MixedPrecisionAdamW  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import collect  # noqa: E402
from llmgym.agents.tiled_cache import TiledCache  # noqa: E402
from tests.golden.test_agents_fused_learning import KNOWN, SMALL  # noqa: E402
from tests.parity.test_first_ratio import STEPS, Played, play  # noqa: E402
from tests.parity.test_policy_parity import observe  # noqa: E402
from tests.unit.agent_fakes import tiny_llama  # noqa: E402


def make_model(name: str, dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    class_name, arguments = KNOWN[name]
    config = getattr(transformers, class_name)(**(SMALL | arguments | {"vocab_size": 60}))
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains and biases too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each search so far found what it looked for."""
    answers: list[bool] = []
    search = Activations.find

    def watched(self: Activations, *arguments: Any) -> Any:
        answer = search(self, *arguments)
        answers.append(answer is not None)
        return answer

    monkeypatch.setattr(Activations, "find", watched)
    return answers


def kept(policy: Policy, *, keep: bool = True) -> Played:
    with policy.keeping_activations() if keep else nullcontext():
        return play(policy)


def learn(policy: Policy, played: Played, rows: Any = slice(None)) -> list[Any]:
    """Log-probabilities of some responses, and the gradient of a weighted sum of them."""
    prompts, lengths, responses, mask = played.arguments
    index, allowed = played.options["prompt_index"][rows], played.options["allowed"]
    policy.model.zero_grad()
    scores = policy.logprobs(
        prompts,
        lengths,
        responses[rows],
        mask[rows],
        prompt_index=index,
        allowed=None if allowed is None else allowed[rows],
    )
    weights = torch.linspace(0.5, 1.5, mask.numel(), dtype=torch.float64).view(mask.shape)[rows]
    (scores.logprobs * weights).sum().backward()
    return [scores.logprobs.detach(), *(p.grad for p in policy.model.parameters() if p.grad is not None)]


def assert_same(mine: list[Any], theirs: list[Any], atol: float = 1e-6) -> None:
    """Log-probabilities come in float32 from both."""
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("short", "nearly_all"), [(96, 0.0), (96, 2.0), (0, 2.0)])
@pytest.mark.parametrize("name", KNOWN)
def test_the_same_gradient(
    name: str, short: int, nearly_all: float, found: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment writes into transcripts, prompts are shared, one slot sits out and comes back."""
    monkeypatch.setattr(fused_learning, "_SHORT", short)
    monkeypatch.setattr(fused_learning, "_NEARLY_ALL", nearly_all)
    monkeypatch.setattr(fused_functions, "_STRETCH", 7)
    results = []
    for keep in (True, False):
        policy = Policy(make_model(name), seed=3)
        played = kept(policy, keep=keep)
        assert played.arguments[3].sum() == 6 * STEPS - 2
        results.append(learn(policy, played))
    assert found == [True, False]
    assert_same(*results)
    assert results[0][1].abs().max() > 0.1


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_prompt_that_was_copied_from_another_slot(
    length: int, found: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses of a group that begin at different times; a slot begins anew with what it began with before."""
    results, n_copied = [], 0
    share = TiledCache.share

    def counted(*arguments: Any) -> None:
        nonlocal n_copied
        n_copied += arguments[3]
        share(*arguments)

    monkeypatch.setattr(TiledCache, "share", counted)
    for keep in (True, False):
        policy, prompt = Policy(make_model("qwen3"), seed=3), [3, 4, 5, 6, 7][:length]
        transcripts, ended = [list(prompt), [9, 8], list(prompt)], []
        restarted, waiting = np.array([True, True, False]), np.array([False, False, True])
        with policy.keeping_activations() if keep else nullcontext():
            for step in range(7):
                actions, _ = policy.act(observe(transcripts), restarted, waiting)
                for slot in np.flatnonzero(~waiting):
                    transcripts[slot].append(int(actions[slot]))
                restarted, waiting = np.array([step == 3, False, step == 1]), np.array([False, False, step < 1])
                if step == 3:
                    ended.append(transcripts[0])
                    transcripts[0] = list(prompt)
        prompts, lengths = torch.zeros(2, 5, dtype=torch.long), torch.tensor([length, 2])
        prompts[0, :length], prompts[1, :2] = torch.tensor(prompt), torch.tensor([9, 8])
        index, texts = torch.tensor([0, 0, 0, 1]), [*ended, transcripts[0], transcripts[2], transcripts[1]]
        responses, mask = torch.zeros(4, 7, dtype=torch.long), torch.zeros(4, 7, dtype=torch.bool)
        for row, text in enumerate(texts):
            written = text[int(lengths[index[row]]) :]
            responses[row, : len(written)], mask[row, : len(written)] = torch.tensor(written), True
        assert mask.sum(1).tolist() == [4, 3, 5, 7]
        options = {"prompt_index": index, "allowed": None}
        results.append(learn(policy, Played((prompts, lengths, responses, mask), options, None)))
    assert n_copied == 2 * 2 * (length - 1)  # two slots, played twice
    assert found == [True, False]
    assert_same(*results)


def test_a_prompt_and_one_that_goes_a_token_further(found: list[bool]) -> None:
    """Two slots begin alike, so that they have the first token's activations together; the prompts scored differ."""
    results = []
    for keep in (True, False):
        policy, transcripts, restarted = Policy(make_model("qwen3"), seed=3), [[3], [3]], np.ones(2, dtype=bool)
        with policy.keeping_activations() if keep else nullcontext():
            for token in (3, 5, 7, 9):
                policy.act(observe(transcripts), restarted)
                restarted = np.zeros(2, dtype=bool)
                for slot, transcript in enumerate(transcripts):
                    transcript.append(token + slot * (token > 3))
        responses = torch.tensor([transcripts[0][1:], [*transcripts[1][2:], 0]])
        mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
        tokens = (torch.tensor([[3, 0], [3, 3]]), torch.tensor([1, 2]), responses, mask)
        options = {"prompt_index": torch.tensor([0, 1]), "allowed": None}
        results.append(learn(policy, Played(tokens, options, None)))
    assert found == [False, False]  # one token would need a gradient for each of its two prompts
    assert_same(*results)


@pytest.mark.parametrize("rows", [[0], [2, 3], [5, 1, 0], [3, 3]])
def test_some_of_the_responses(rows: list[int], found: list[bool]) -> None:
    policy = Policy(make_model("qwen2"), seed=3)
    played = kept(policy)
    mine = learn(policy, played, rows)
    assert found == [rows != [3, 3]]  # it was played once
    policy.forget()
    policy.max_kept_bytes = 0
    with policy.keeping_activations():
        policy.act(observe([[3]]), np.array([True]))
    assert_same(mine, learn(policy, played, rows))
    assert not found[-1]


def test_without_gradient_no_layer_is_computed(found: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(make_model("qwen3"), seed=3)
    played = kept(policy)
    expected = learn(policy, played)[0]
    monkeypatch.setattr(fused_learning, "_layer", None)  # calling it would be an error
    prompts, lengths, responses, mask = played.arguments
    with torch.no_grad():
        scores = policy.logprobs(prompts, lengths, responses, mask, prompt_index=played.options["prompt_index"])
    assert torch.allclose(scores.logprobs, expected, atol=1e-6)
    assert found == [True, True]


@pytest.mark.parametrize("change", ["optimizer", "fused", "sign", "swap", "embedding", "bias", "data"])
def test_other_weights_begin_anew(change: str, found: list[bool]) -> None:
    """Autograd counts every change but that of ``.data``, after which a policy is told to forget."""
    policy, other = Policy(make_model("qwen2"), seed=3), Policy(make_model("qwen2"), seed=3)
    played = kept(policy)
    for model in (policy.model, other.model):
        layer = model.model.layers[1]
        with torch.no_grad():
            if change == "optimizer":
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
                optimizer.step()
            elif change == "fused":  # which autograd does not count either
                model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
                torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True).step()
            elif change == "sign":
                layer.mlp.down_proj.weight.neg_()
            elif change == "swap":
                layer.self_attn.o_proj.weight = torch.nn.Parameter(layer.self_attn.o_proj.weight.flip(0))
            elif change == "embedding":
                model.model.embed_tokens.weight.mul_(1.5)
            elif change == "bias":
                layer.self_attn.q_proj.bias.add_(0.1)
            else:
                layer.mlp.down_proj.weight.data[3, 4] += 0.5
    if change == "data":
        policy.forget()
    assert_same(learn(policy, played), learn(other, played))
    assert found == [False]


def test_what_is_kept_is_that_of_the_last_context(found: list[bool]) -> None:
    policy = Policy(make_model("llama"), seed=3)
    first = kept(policy)
    evaluation = play(policy)  # nothing of it is kept, and nothing is lost
    assert_same(learn(policy, first), learn(policy, first))
    learn(policy, evaluation)
    assert found == [True, True, False]
    second = kept(policy)
    learn(policy, second)
    learn(policy, first)
    assert found[3:] == [True, False]


def test_two_rollouts_in_one_context(found: list[bool]) -> None:
    policy = Policy(make_model("llama"), seed=3)
    with policy.keeping_activations():
        first = play(policy)
        policy.forget()
        second = play(policy)
    results = [learn(policy, played) for played in (first, second)]
    assert found == [True, True]
    policy.gradient_checkpointing = True
    for mine, played in zip(results, (first, second), strict=True):
        assert_same(mine, learn(policy, played))
    assert len(found) == 2


def test_what_does_not_fit_is_not_kept(found: list[bool]) -> None:
    """Nor is the next rollout, unless this one would have fitted; the memory is given back."""
    policy = Policy(make_model("llama"), seed=3)
    each = kept_bytes(policy)
    policy.max_kept_bytes = 40 * each
    for _ in range(2):
        played = kept(policy)
        mine = learn(policy, played)
        policy.gradient_checkpointing = True
        assert_same(mine, learn(policy, played))
        policy.gradient_checkpointing = False
        assert n_held(policy) == 0
    with policy.keeping_activations():
        policy.act(observe([[3, 5], [9], [4], [4], [4], [6]]), np.ones(6, dtype=bool))
    assert n_held(policy) == 0
    with policy.keeping_activations():
        policy.act(observe([[3, 5], [9], [4], [4], [4], [6]]), np.ones(6, dtype=bool))
    assert n_held(policy) == 40
    assert found == [False, False]


def kept_bytes(policy: Policy) -> int:
    """Of a token: what the document says is kept of it, in float64."""
    config = policy.model.config
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    head_dim = config.hidden_size // config.num_attention_heads
    layer = 3 * config.hidden_size + 2 + heads * head_dim + 2 * config.intermediate_size
    return 8 * (config.num_hidden_layers * layer + config.hidden_size)


def n_held(policy: Policy) -> int:
    """Tokens that there is memory for."""
    held = policy._activations
    assert held is not None
    return sum(states.shape[1] for states in held._states[:1])


def test_memory_is_held_no_longer_than_needed(found: list[bool]) -> None:
    policy = Policy(make_model("llama"), seed=3)
    with policy.keeping_activations():
        twin = copy.deepcopy(policy)
        play(policy)
    assert n_held(policy) > 0
    policy.forget()
    assert n_held(policy) == 0
    for never in (policy, twin):
        never.gradient_checkpointing = never is policy
        with never.keeping_activations() if never is policy else nullcontext():
            play(never)
        assert n_held(never) == 0
    assert found == []


def test_nothing_is_kept_after_the_context(found: list[bool]) -> None:
    policy = Policy(make_model("llama"), seed=3)
    kept(policy)
    policy.forget()
    learn(policy, play(policy))
    assert n_held(policy) == 0
    assert found == [False]


@pytest.mark.parametrize("most", [0.0, 1.1])
def test_learning_twice_from_the_same(most: float, found: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all that is kept where it lies, or copying what is needed."""
    monkeypatch.setattr(activations, "_MOST", most)
    policy = Policy(make_model("qwen3"), seed=3)
    played = kept(policy)
    results = [learn(policy, played), learn(policy, played)]
    assert found == [True, True]
    policy.forget()
    for result in results:
        assert_same(result, learn(policy, played))


def test_prompts_that_go_beyond_what_slots_began_with(found: list[bool]) -> None:
    """Two slots that begin with one prompt and write unlike turns: learning only the last turn, prompts are unlike."""
    policy = Policy(make_model("llama"), seed=3)
    with policy.keeping_activations():
        transcripts = [[4, 4, 9], [4, 4, 9]]
        for step in range(8):
            actions, _ = policy.act(observe(transcripts), np.full(2, step == 0))
            transcripts = [[*ids, int(action)] for ids, action in zip(transcripts, actions, strict=True)]
    ids = torch.tensor(transcripts)
    assert (ids[0, :6] != ids[1, :6]).any()
    lengths, mask = torch.tensor([6, 6]), torch.ones(2, 5, dtype=torch.bool)
    played = Played((ids[:, :6], lengths, ids[:, 6:], mask), {"prompt_index": torch.arange(2), "allowed": None}, None)
    mine = learn(policy, played)
    policy.forget()
    assert_same(mine, learn(policy, played))


def test_values_come_from_it_too(found: list[bool]) -> None:
    policy, head = Policy(make_model("llama"), seed=3), ValueHead(16).double()
    torch.nn.init.normal_(head.linear.weight)
    played = kept(policy)
    options = {"prompt_index": played.options["prompt_index"], "value_head": lambda hidden: head.linear(hidden)[:, 0]}
    without = policy.logprobs(*played.arguments, **options, with_last_values=False)
    both = policy.logprobs(*played.arguments, **options)
    assert found == [True]  # nobody acts in a last state, so it is not known
    policy.forget()
    again = policy.logprobs(*played.arguments, **options)
    assert without.last_values is None
    assert torch.allclose(without.values, again.values)
    assert torch.allclose(both.last_values, again.last_values)


def test_a_pruned_layer_is_run_by_the_models_own_code() -> None:
    model = make_model("llama", torch.float32)
    layer = model.model.layers[1].mlp
    for name in ("gate_proj", "up_proj"):
        linear = getattr(layer, name)
        linear.weight, linear.out_features = torch.nn.Parameter(linear.weight[:-4]), linear.out_features - 4
    layer.down_proj.weight = torch.nn.Parameter(layer.down_proj.weight[:, :-4])
    policy = Policy(model, seed=3)
    played = kept(policy)
    mask = played.arguments[3]
    assert policy._activations is None
    assert torch.allclose(played.sampled[mask], learn(policy, played)[0][mask], atol=1e-4)


def test_in_bfloat16_the_same_to_its_precision(found: list[bool]) -> None:
    results = []
    for keep in (True, False):
        policy = Policy(make_model("qwen3", torch.bfloat16), seed=3)
        results.append(learn(policy, kept(policy, keep=keep)))
    assert found == [True, False]
    for one, other in zip(*results, strict=True):
        assert torch.linalg.vector_norm((one - other).float()) < 0.05 * torch.linalg.vector_norm(other.float()) + 1e-3


@contextmanager
def copy_envs(mode: str) -> Iterator[Any]:
    """Four symbols and prompts of one or two of them: many slots are posed the same."""
    options = {"n_symbols": 4, "n_digits": 2, "autoreset_mode": mode}
    envs = gym.make_vec("llmgym/Copy-v0", num_envs=8, vectorization_mode="vector_entry_point", **options)
    try:
        yield envs
    finally:
        envs.close()


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("mode", ["disabled", "next_step", "same_step"])
def test_in_every_autoreset_mode(mode: str, group_size: int, found: list[bool]) -> None:
    results = []
    for keep in (True, False):
        with copy_envs(mode) as envs:
            policy = Policy(tiny_llama(vocab_size=int(envs.single_action_space.n)).double(), seed=5)
            with policy.keeping_activations() if keep else nullcontext():
                batch = collect(envs, policy, group_size=group_size, n_groups=16 // group_size, seed=2)
        prompts = torch.from_numpy(batch.prompt_ids)
        lengths = torch.from_numpy(batch.prompt_lengths)
        right = torch.stack([row.roll(-int(prompts.shape[1] - n)) for row, n in zip(prompts, lengths, strict=True)])
        arguments = right, lengths, torch.from_numpy(batch.response_ids), torch.from_numpy(batch.response_mask)
        played = Played(arguments, {"prompt_index": torch.arange(len(batch)), "allowed": None}, None)
        results.append(learn(policy, played))
    assert len(np.unique(batch.prompt_ids, axis=0)) < len(batch)
    assert found == [True, False]
    assert_same(*results)


@pytest.mark.parametrize(("n_epochs", "finds"), [(1, True), (6, False)])
def test_an_agent_learns_from_it(n_epochs: int, finds: bool, found: list[bool]) -> None:
    """With and without the same weights; the first search of an iteration finds all, unless it is one of many."""
    weights = []
    for n_bytes in (2**24, 0):
        with copy_envs("disabled") as envs:
            policy = Policy(tiny_llama(vocab_size=int(envs.single_action_space.n)), seed=5, temperature=1.2)
            policy.max_kept_bytes = n_bytes
            options = {
                "group_size": 4,
                "problems_per_iteration": 8,
                "n_minibatches": 2,
                "n_epochs": n_epochs,
                "seed": 1,
            }
            agent = GRPO(policy, envs, **options)
            agent.iterate()
            weights.append([parameter.detach().clone() for parameter in policy.model.parameters()])
            if n_bytes:
                assert found[0] == finds
                assert not found[-1]  # after the first optimiser step
    for one, other in zip(*weights, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_passes_that_find_them_are_twice_as_large(found: list[bool]) -> None:
    n_passes = []
    for n_bytes in (2**24, 0):
        found.clear()
        with copy_envs("disabled") as envs:
            policy = Policy(tiny_llama(vocab_size=int(envs.single_action_space.n)), seed=5)
            policy.max_kept_bytes = n_bytes
            options = {"group_size": 4, "problems_per_iteration": 8, "n_minibatches": 1, "microbatch_tokens": 16}
            agent = GRPO(policy, envs, advantages="mean", seed=1, **options)
            with policy.keeping_activations():
                batch, _ = agent.collect()
            agent.update(batch)
        assert set(found) == {n_bytes > 0}
        n_passes.append(len(found))
    assert n_passes[0] < 0.75 * n_passes[1]


def test_an_optimiser_step_is_a_change() -> None:
    """PyTorch's fused step is none to autograd."""
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    before = weight._version
    MixedPrecisionAdamW([weight], learning_rate=0.1).step()
    assert weight._version > before
