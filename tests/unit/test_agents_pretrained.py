"""Models from folders and back, adapters, references that share weights, and chat templates through an environment."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from llmgym.agents import GRPO, Policy  # noqa: E402
from llmgym.agents.pretrained import light_copy  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from llmgym.tokenizers import load_tokenizer  # noqa: E402
from tests.unit.agent_fakes import echo_envs, tiny_llama  # noqa: E402

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with the shipped tokenizer and a chat template, as transformers writes it."""
    path = tmp_path / "model"
    model = tiny_llama(640)
    model.config.max_position_embeddings = 256  # rotary: nothing else depends on it
    model.save_pretrained(path)
    load_tokenizer("tiny-reasoner").save(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}))
    return path


def shake(policy: Policy, scale: float = 0.3) -> Policy:
    """Move what trains, as learning would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((scale * noise).to(parameter))
    policy.forget()
    return policy


def logprobs(policy: Policy) -> Any:
    """Of two responses to one prompt each, with gradient."""
    prompts, lengths = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    responses = torch.tensor([[2, 5, 1, 0], [8, 8, 3, 1]])
    mask = torch.tensor([[True, True, True, False], [True, False, True, True]])
    return policy.logprobs(prompts, lengths, responses, mask).logprobs


def plain_logits(model: Any) -> Any:
    """By a plain forward pass, attention computed the same way for all."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[3, 4, 5, 2, 5, 1]])).logits


def grpo(policy: Any, **options: Any) -> GRPO:
    envs = echo_envs(8, AutoresetMode.SAME_STEP)
    settings: dict[str, Any] = {"group_size": 4, "problems_per_iteration": 4, "n_minibatches": 2, "run_dir": None}
    return GRPO(policy, envs, **(settings | {"warmup_iterations": 0, "learning_rate": 1e-2} | options))


# -- folders and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_reads_what_is_saved(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    policy = shake(Policy.load(folder, device="cpu", dtype=dtype))
    policy.save(tmp_path / "saved")
    assert "llmgym" not in (tmp_path / "saved" / "config.json").read_text()  # our attention is no business of theirs
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert model.dtype == dtype
    assert torch.equal(plain_logits(model), plain_logits(policy.model))


def test_transformers_reads_the_tokenizer_that_is_saved(folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(folder, device="cpu")
    policy.save(tmp_path / "saved")
    ours, theirs = policy.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert ours is not None
    text = "<think>9*7=63\n</think><answer>六十三</answer><eos>"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.eos_token_id == ours.end_token_id
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "9*7?"}]
    rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == ours.apply_chat_template(messages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_policy_is_the_same_after_saving_and_loading(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    policy = shake(Policy.load(folder, device="cpu", dtype=dtype))
    policy.save(tmp_path / "saved")
    again = Policy.load(tmp_path / "saved", device="cpu", dtype=dtype)
    assert torch.equal(logprobs(again), logprobs(policy))


@pytest.mark.parametrize("name", ["./no/such/folder", "/nowhere/at/all", "two words"])
def test_a_path_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match="a model's folder or a hub name, actual: .*Check the path"):
        Policy.load(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"without config.json or adapter_config.json"):
        Policy.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(
        InvalidOptionError, match=r"that transformers can load, actual: .*ValueError.*Look at its config"
    ):
        Policy.load(tmp_path)


def test_a_hub_name_offline_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidOptionError, match=r"nobody/nothing.*OSError.*hf download nobody/nothing --local-dir"):
        Policy.load("nobody/nothing")


# -- chat templates ---------------------------------------------------------------------------------------------------


def test_grpo_on_a_chat_template(folder: Path) -> None:
    agent = GRPO(
        str(folder),
        "llmgym/MathReason-v0",
        env_kwargs={"prompt_template": "chat", "system_prompt": "Be brief.", "max_new_tokens": 8},
        group_size=2,
        problems_per_iteration=2,
        n_minibatches=1,
        ent_coef=0.01,  # random responses earn nothing: there has to be something to learn
        run_dir=None,
    )
    batch, _ = agent.collect()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.decode(batch.prompt_of(0))
    head, question = prompt.split("<|user|>\n")
    assert head == "<|system|>\nBe brief.<eos>\n"
    assert question.endswith("<eos>\n<|assistant|>\n")
    metrics = agent.update(batch)
    assert metrics["train/approx_kl"] < 1e-6


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["add_lora", "PeftModel"])
def adapted(request: pytest.FixtureRequest, peft: Any) -> Policy:
    """A policy whose adapters have moved."""
    if request.param == "add_lora":
        return shake(Policy.load(tiny_llama()).add_lora(2))
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        model = peft.get_peft_model(
            tiny_llama(), peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj", "lm_head"], task_type="CAUSAL_LM")
        )
    return shake(Policy.load(model))


def test_new_adapters_change_nothing(peft: Any) -> None:
    before = logprobs(Policy.load(tiny_llama(), fused=False))  # with adapters a model is run by its own code
    policy = Policy.load(tiny_llama()).add_lora(2)
    assert policy.has_adapters
    assert torch.equal(logprobs(policy), before)


def test_adapters_are_drawn_from_the_policys_seed(peft: Any) -> None:
    policies = [Policy.load(tiny_llama(), seed=seed) for seed in (0, 0, 1)]
    for place, policy in enumerate(policies):
        torch.manual_seed(place)  # the global generator has no say, and keeps its state
        state = torch.random.get_rng_state()
        shake(policy.add_lora(2))
        assert torch.equal(torch.random.get_rng_state(), state)
    one, same, other = map(logprobs, policies)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_reference_is_the_untouched_base_and_shares_its_weights(adapted: Policy) -> None:
    reference = adapted.frozen_copy()
    mine = {parameter.data_ptr() for parameter in adapted.model.parameters()}
    assert all(parameter.data_ptr() in mine for parameter in reference.model.parameters())
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())
    base = logprobs(Policy.load(tiny_llama()))
    assert torch.equal(logprobs(reference), base)
    assert not torch.allclose(logprobs(adapted), base, atol=1e-3)


def test_the_reference_acts_and_learns_beside_the_policy(adapted: Policy) -> None:
    """Whoever is asked first, and in the middle of the other's pass: neither disturbs the other."""
    reference = adapted.frozen_copy()
    observation = {"input_ids": np.array([[3, 4]]), "attention_mask": np.array([[1, 1]])}
    expected = {id(p): logprobs(p).detach() for p in (adapted, reference)}
    loss = logprobs(adapted).sum()
    assert torch.equal(logprobs(reference), expected[id(reference)])
    reference.act(observation)
    loss.backward()
    assert torch.equal(logprobs(adapted), expected[id(adapted)])
    for policy in (adapted, reference):
        action, logprob = policy.act(observation) if policy is adapted else (None, None)
        if action is not None:
            full = plain_logits_of(policy, [3, 4]).log_softmax(-1)
            assert logprob == pytest.approx(float(full[action[0]]), abs=1e-5)


def plain_logits_of(policy: Policy, ids: list[int]) -> Any:
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([ids])).logits[0, -1].float()


def test_only_adapters_have_a_gradient(adapted: Policy) -> None:
    logprobs(adapted).sum().backward()
    for name, parameter in adapted.model.named_parameters():
        assert ("lora_" in name) == (parameter.grad is not None), name
        if parameter.grad is not None:
            assert parameter.grad.abs().sum() > 0, name


def test_gradients_are_those_of_the_merged_weights(peft: Any) -> None:
    """d/dB of f(W + s B A) is s (d/dW) A^T, computed on the merged model: another way round."""
    policy = shake(Policy.load(tiny_llama()).add_lora(2, alpha=6))
    merged = policy.merged()
    logprobs(policy).square().sum().backward()
    logprobs(merged).square().sum().backward()
    layer = policy.model.base_model.model.model.layers[1].mlp.up_proj
    weight = merged.model.model.layers[1].mlp.up_proj.weight
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.allclose(b.grad, 3.0 * weight.grad @ a.T, rtol=1e-3, atol=1e-4)
    assert torch.allclose(a.grad, 3.0 * b.T @ weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_grpo_trains_adapters_and_leaves_the_reference(adapted: Policy, checkpointing: bool) -> None:
    adapted.gradient_checkpointing = checkpointing
    agent = grpo(adapted, kl_coef=0.1, n_minibatches=1)
    assert agent.reference is not None
    before, reference = logprobs(adapted).detach(), logprobs(agent.reference)
    metrics = agent.iterate()
    assert metrics["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)  # ratio 1 on the first minibatch
    assert metrics["train/clip_fraction"] == 0.0
    assert not torch.allclose(logprobs(adapted), before, atol=1e-3)
    assert torch.equal(logprobs(agent.reference), reference)
    base = dict(tiny_llama().named_parameters())
    for name, parameter in agent.reference.model.named_parameters():
        assert torch.equal(parameter, base[name]), name


def test_a_light_copy_trains_by_itself(adapted: Policy) -> None:
    """What a critic is made of: its own adapters on the same frozen weights."""
    before = logprobs(adapted).detach()
    twin = Policy(light_copy(adapted.model))
    assert torch.equal(logprobs(twin), before)
    mine = {parameter.data_ptr() for parameter in adapted.model.parameters()}
    assert {p.data_ptr() in mine for p in twin.model.parameters() if p.requires_grad} == {False}
    assert {p.data_ptr() in mine for p in twin.model.parameters() if not p.requires_grad} == {True}
    shake(twin)
    assert not torch.allclose(logprobs(twin), before, atol=1e-3)
    assert torch.equal(logprobs(adapted), before)


# -- saving adapters --------------------------------------------------------------------------------------------------


def test_a_nameless_base_is_saved_beside_its_adapter(adapted: Policy, tmp_path: Path) -> None:
    adapted.save(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "moved")
    assert {"config.json", "model.safetensors", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "moved").iterdir()
    }
    again = Policy.load(tmp_path / "moved", device="cpu")
    assert torch.equal(logprobs(again), logprobs(adapted))
    assert torch.equal(logprobs(again.frozen_copy()), logprobs(Policy.load(tiny_llama())))
    names = {name for name, p in again.model.named_parameters() if p.requires_grad}
    assert names == {name for name, p in adapted.model.named_parameters() if p.requires_grad}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    assert torch.equal(plain_logits(model), plain_logits(adapted.model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_with_a_name_is_named(peft: Any, folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    policy = shake(Policy.load(folder, device="cpu", dtype=dtype).add_lora(2))
    assert {p.dtype for p in policy.model.parameters()} == {dtype}
    policy.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "config.json").exists()
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    again = Policy.load(tmp_path / "saved", device="cpu", dtype=dtype)
    assert torch.equal(logprobs(again), logprobs(policy))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype)
    theirs, ours = plain_logits(model), plain_logits(policy.model)
    # transformers keeps the adapter in float32, where ours rounds as it played.
    assert torch.allclose(theirs, ours, atol=0 if dtype == torch.float32 else 0.15)


def test_the_same_files_are_written_each_time(peft: Any, folder: Path, tmp_path: Path) -> None:
    policy = shake(Policy.load(folder, device="cpu").add_lora(2))
    for name in ("one", "two"):
        policy.save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    modules = json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(modules)


def test_a_base_that_was_trained_after_loading_is_not_named(peft: Any, folder: Path, tmp_path: Path) -> None:
    """Its name would lead to other weights."""
    policy = shake(Policy.load(folder, device="cpu", fused=False))
    trained = logprobs(policy).detach()
    policy.add_lora(2)
    policy.save(tmp_path / "saved")
    assert torch.equal(logprobs(Policy.load(tmp_path / "saved", device="cpu")), trained)


@pytest.mark.parametrize("change", ["merged", "copied", "data", "precision"])
def test_a_base_that_is_no_longer_what_its_name_leads_to_is_written(
    peft: Any, folder: Path, tmp_path: Path, change: str
) -> None:
    """Otherwise the adapters would come back on another model, without a word."""
    policy = Policy.load(folder)
    if change == "merged":
        policy.add_lora(2)
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.3)
        policy = policy.merged()
    elif change == "copied":
        with torch.no_grad():
            next(policy.model.parameters()).add_(0.1)
        policy = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    elif change == "data":
        policy.model.lm_head.weight.data *= 2
    else:
        policy = Policy(policy.model.to(torch.bfloat16).to(torch.float32), policy.tokenizer)
    policy.add_lora(2)
    policy.save(tmp_path / "saved")
    again = dict(Policy.load(tmp_path / "saved").model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(again[name], parameter), name


def test_a_base_that_a_run_may_replace_is_not_named(peft: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "agent.json").write_text("{}")
    policy = shake(Policy.load(folder, device="cpu").add_lora(2))
    policy.save(tmp_path / "saved")
    shutil.rmtree(folder)
    assert torch.equal(logprobs(Policy.load(tmp_path / "saved", device="cpu")), logprobs(policy))


def test_an_adapter_whose_base_is_gone_says_so(peft: Any, folder: Path, tmp_path: Path) -> None:
    Policy.load(folder, device="cpu").add_lora(2).save(tmp_path / "saved")
    shutil.rmtree(folder)
    with pytest.raises(InvalidOptionError, match=r"the base of the adapter .*saved.*actual: .*model"):
        Policy.load(tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(InvalidOptionError, match=r"has no base_model_name_or_path"):
        Policy.load(tmp_path / "saved")


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(peft: Any, folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(folder, device="cpu").add_lora(2)
    policy.tokenizer = None
    policy.save(tmp_path / "saved")
    tokenizer = Policy.load(tmp_path / "saved", device="cpu").tokenizer
    assert tokenizer is not None
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_merged_weights_are_a_plain_model(adapted: Policy, tmp_path: Path) -> None:
    before = logprobs(adapted).detach()
    merged = adapted.merged()
    assert not merged.has_adapters
    assert torch.allclose(logprobs(merged), before, atol=1e-5)
    merged.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain_logits(model), plain_logits(merged.model))
    shake(merged)
    assert torch.equal(logprobs(adapted), before)  # a copy
    with pytest.raises(InvalidOptionError, match="with adapters to merge"):
        merged.merged()


def test_an_agent_saves_and_loads_adapters(peft: Any, folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(folder, device="cpu").add_lora(2)
    options: dict[str, Any] = {"group_size": 2, "problems_per_iteration": 2, "n_minibatches": 1, "run_dir": None}
    agent = GRPO(policy, "llmgym/MathReason-v0", env_kwargs={"max_new_tokens": 8}, **options)
    shake(agent.policy)
    saved = agent.save(tmp_path / "run")
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    again = GRPO.load(saved)
    assert again.policy.has_adapters
    assert torch.equal(logprobs(again.policy), logprobs(agent.policy))


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank of LoRA to be a whole number >= 1, actual: 0"),
        ({"rank": 2.5}, "rank of LoRA to be a whole number >= 1, actual: 2.5"),
        ({"rank": 2, "alpha": 0}, "alpha of LoRA to be > 0, actual: 0"),
        ({"rank": 2, "dropout": 0.1}, r"dropout of LoRA to be 0 \(sampling and learning see one distribution\)"),
        ({"rank": 2, "target_modules": ["nothing"]}, r"layers of LlamaForCausalLM, actual: \['nothing'\]"),
    ],
)
def test_lora_that_cannot_be_is_refused(peft: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        Policy.load(tiny_llama()).add_lora(**options)


def test_adapters_upon_adapters_are_refused(peft: Any) -> None:
    policy = Policy.load(tiny_llama()).add_lora(2)
    with pytest.raises(InvalidOptionError, match=r"without adapters, actual: it has \['default'\]"):
        policy.add_lora(2)


def test_learned_prompts_are_refused(peft: Any) -> None:
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        model = peft.get_peft_model(tiny_llama(), peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(InvalidOptionError, match="actual: PROMPT_TUNING, which adds tokens"):
        Policy.load(model)


def test_several_active_adapters_are_refused(peft: Any) -> None:
    policy = Policy.load(tiny_llama()).add_lora(2)
    policy.model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    policy.model.base_model.set_adapter(["default", "other"])
    with pytest.raises(InvalidOptionError, match=r"one active adapter, actual: \['default', 'other'\]"):
        Policy.load(policy.model)


def test_an_adapter_without_its_peft_model_is_refused(peft: Any, folder: Path, tmp_path: Path) -> None:
    Policy.load(folder, device="cpu").add_lora(2).save(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with pytest.raises(InvalidOptionError, match="a peft.PeftModel, actual: LlamaForCausalLM"):
        Policy.load(model)


def test_without_peft_the_install_line_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"llmgym-rl\[lora\]"):
        Policy.load(tiny_llama()).add_lora(2)
