"""Language models from folders and hub names, and back to folders; LoRA adapters on them, through peft.

A model with adapters is a ``peft.PeftModel``: its own weights are frozen and only the adapters train. Copies of it
share the frozen weights, so that a reference policy or a critic costs little memory.

Not for playing or learning: see :mod:`llmgym.agents.policies`.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import find_adapter_config_file

import llmgym
from llmgym.agents.saving import AGENT_FILE
from llmgym.errors import InvalidOptionError, missing_extra
from llmgym.tokenizers import TINY_REASONER, Tokenizer, load_tokenizer

_ASSETS = Path(llmgym.__file__).parent / "assets"
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Pretrained(NamedTuple):
    """What a name leads to.

    Attributes:
        model: A transformers model, or a ``peft.PeftModel`` around one.
        tokenizer: ``None`` where there is no ``tokenizer.json``.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer | None


# -- loading and saving -----------------------------------------------------------------------------------------------


def load_pretrained(name: str, *, device: torch.device, dtype: torch.dtype) -> Pretrained:
    """The model and the tokenizer of a name.

    Args:
        name: ``"tiny-reasoner"``, a folder, or a name on the Hugging Face hub. A folder or a repository with an
            ``adapter_config.json`` holds an adapter; its base is in the same folder, or named by it.
        device: Where the model goes.
        dtype: Of its weights, and of the adapter's.

    Raises:
        InvalidOptionError: If there is no such model, or transformers cannot load it as a causal language model.
        MissingExtraError: If it has an adapter, and peft is missing.
    """
    path, adapter = _locate(name)
    if adapter is None:
        return Pretrained(_load_model(path, dtype).to(device), _find_tokenizer(name))
    peft = _import_peft()
    base, whole = _base_of(name, path, adapter)
    model = _load_model(base, dtype, of_adapter=name, whole=whole).to(device)
    with _quiet(), torch.random.fork_rng():  # the adapter is drawn at random before it is read
        model = peft.PeftModel.from_pretrained(model, path, is_trainable=True, autocast_adapter_dtype=False)
    return Pretrained(model, _find_tokenizer(name, base))


def count_parameters(name: str) -> int:
    """How many weights the model of a name has, adapters left out: read off its configuration, without loading it.

    Args:
        name: As for :func:`load_pretrained`.

    Raises:
        InvalidOptionError: If there is no such model, or transformers has no causal language model of its kind.

    Example:
        >>> count_parameters("tiny-reasoner")
        1373600
    """
    path, adapter = _locate(name)
    base = path if adapter is None else _base_of(name, path, adapter)[0]
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    except (OSError, ValueError) as error:
        raise _cannot_load("the model", base, error) from error
    return sum(parameter.numel() for parameter in model.parameters())


def save_pretrained(model: PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    """Write a model so that :func:`load_pretrained` and ``AutoModelForCausalLM`` read it back.

    Of a model with an adapter only the adapter is written, and the name of its base: a hub name, or a folder that no
    agent wrote. Where :func:`load_pretrained` did not load the base, or its weights are others by now, it is written
    into the same folder, as transformers expects it there.

    Args:
        model: A transformers model, or a ``peft.PeftModel``.
        folder: Made where it is missing.
    """
    if not has_adapters(model):
        model.save_pretrained(folder)
        return
    peft = _import_peft()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.peft_config[model.active_adapter])
    config.inference_mode = True  # as peft writes it
    base = without_adapters(model)
    config.base_model_name_or_path = _name_again(base)
    if isinstance(config.target_modules, set):  # the same file from every process
        config.target_modules = sorted(config.target_modules)
    if config.base_model_name_or_path is None:
        base.save_pretrained(folder)
    weights = peft.get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}  # none shared, as asked
    save_file(weights, folder / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)


def _locate(name: str) -> tuple[str, str | None]:
    """The folder or hub name that a name stands for, and the configuration of the adapter that is there."""
    path = str(_ASSETS / TINY_REASONER) if name == TINY_REASONER else name
    _check_path(path)
    return path, find_adapter_config_file(path)


def _base_of(name: str, path: str, adapter: str) -> tuple[str, bool]:
    """What an adapter's base is loaded from, and whether that is the adapter's own folder."""
    if Path(path, "config.json").is_file():
        return path, True
    base = json.loads(Path(adapter).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise InvalidOptionError(
            f"Expected an adapter that comes with its base model or names it, actual: {_ADAPTER_CONFIG} of {name!r} "
            "has no base_model_name_or_path. Write the base's folder or hub name there."
        )
    return base, False


def _check_path(path: str) -> None:
    """Refuse what is neither a folder with a model nor can be a hub name."""
    here = Path(path)
    if here.is_dir():
        if not any((here / file).is_file() for file in ("config.json", _ADAPTER_CONFIG)):
            raise InvalidOptionError(
                f"Expected a model's folder, actual: {path!r} without config.json or {_ADAPTER_CONFIG}. Pass what "
                "save_pretrained or an agent's save wrote."
            )
    elif here.exists() or not _HUB_NAME.fullmatch(path):
        raise InvalidOptionError(
            f"Expected {TINY_REASONER!r}, a model's folder or a hub name, actual: {path!r}, which is none. "
            "Check the path."
        )


def _load_model(name: str, dtype: torch.dtype, *, of_adapter: str | None = None, whole: bool = False) -> Any:
    """A causal language model without adapters; ``whole``: its folder holds an adapter too."""
    options = {"adapter_kwargs": {"subfolder": "leave-the-adapter"}} if whole else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        what = "the model" if of_adapter is None else f"the base of the adapter {of_adapter!r}"
        raise _cannot_load(what, name, error) from error
    model.llmgym_loaded_as = (name, _fingerprint(model))
    return model


def _cannot_load(what: str, name: str, error: Exception) -> InvalidOptionError:
    """The error for a model that transformers refuses."""
    mend = "Look at its config.json, and at transformers' list of causal language models."
    if not Path(name).exists():
        mend = (
            "Check the name and the network; a gated model needs `hf auth login`. Without a network, fetch it "
            f"elsewhere with `hf download {name} --local-dir FOLDER`, and pass that folder."
        )
    return InvalidOptionError(
        f"Expected {what} to be one that transformers can load, actual: {name!r}: "
        f"{type(error).__name__}: {str(error).strip().splitlines()[0]} {mend}"
    )


def _fingerprint(model: PreTrainedModel) -> dict[str, tuple[Any, ...]]:
    """Parameter -> what changes with it: shape, precision, and two sums over its numbers.

    A hash of the bytes would take a minute for a model of some billions of parameters.
    """
    with torch.no_grad():
        sums = {name: (p.double().sum().cpu(), p.double().square().sum().cpu()) for name, p in model.named_parameters()}
    return {
        name: (tuple(p.shape), p.dtype, float(sums[name][0]), float(sums[name][1]))
        for name, p in model.named_parameters()
    }


def _same_fingerprint(one: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]]) -> bool:
    """Whether both are of the same weights; sums may differ by rounding between devices."""
    return one.keys() == other.keys() and all(
        mine[:2] == other[name][:2]
        and all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(mine[2:], other[name][2:], strict=True))
        for name, mine in one.items()
    )


def _find_tokenizer(*names: str) -> Tokenizer | None:
    """The tokenizer of the first name that has one; a hub name should."""
    for place, name in enumerate(names):
        folder = Path(name)
        if name == TINY_REASONER or (folder / "tokenizer.json").is_file():
            return load_tokenizer(name)
        if not folder.exists():
            try:
                return load_tokenizer(name)
            except InvalidOptionError:
                if place == len(names) - 1:
                    raise
    return None


def _name_again(base: PreTrainedModel) -> str | None:
    """A name under which the same base can be loaded again; ``None`` where there is none for certain."""
    name, as_loaded = getattr(base, "llmgym_loaded_as", (None, {}))
    if name is None or not _same_fingerprint(as_loaded, _fingerprint(base)):
        return None
    folder = Path(name)
    if not folder.is_dir():
        return str(name)
    # What agents write they also replace, and the package may be installed elsewhere.
    ours = folder.is_relative_to(_ASSETS) or (folder / _ADAPTER_CONFIG).exists()
    ours = ours or any((place / AGENT_FILE).exists() for place in (folder, folder.absolute().parent))
    return None if ours else str(folder.absolute())


# -- adapters ---------------------------------------------------------------------------------------------------------


def has_adapters(model: object) -> bool:
    """Whether it is a ``peft.PeftModel``."""
    peft = sys.modules.get("peft")  # nobody made one before peft was imported
    return peft is not None and isinstance(model, peft.PeftModel)


def check_given(model: Any) -> None:
    """Refuse a model whose adapters cannot be played, trained or saved as such.

    Raises:
        InvalidOptionError: If it has several active adapters, one that is a learned prompt, or one without a
            ``PeftModel`` around it.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InvalidOptionError(
            f"Expected an adapter in a peft.PeftModel, actual: {type(model).__name__}, which transformers put one into."
            " Pass the adapter's folder, or PeftModel.from_pretrained(base, folder, is_trainable=True)."
        )
    if not has_adapters(model):
        return
    if len(model.active_adapters) != 1:
        raise InvalidOptionError(
            f"Expected one active adapter, actual: {model.active_adapters}. Choose one with model.set_adapter(name)."
        )
    kind = model.peft_config[model.active_adapter]
    if kind.is_prompt_learning or kind.is_adaption_prompt:
        raise InvalidOptionError(
            f"Expected an adapter of weights, such as LoRA, actual: {kind.peft_type.value}, which adds tokens that the "
            "environment does not know of. Use policy.add_lora(rank)."
        )


def check_lora(rank: int, alpha: float | None = None, dropout: float = 0.0) -> None:
    """Refuse adapters that cannot be: the arguments are those of :func:`add_lora`.

    Raises:
        InvalidOptionError: If an option cannot be.
    """
    rules = {
        "rank": (isinstance(rank, int) and rank >= 1, "a whole number >= 1", rank),
        "alpha": (alpha is None or alpha > 0, "> 0", alpha),
        "dropout": (dropout == 0, "0 (sampling and learning see one distribution)", dropout),
    }
    for name, (holds, rule, value) in rules.items():
        if not holds:
            raise InvalidOptionError(f"Expected {name} of LoRA to be {rule}, actual: {value!r}. Change it.")


def add_lora(
    model: PreTrainedModel,
    rank: int,
    *,
    alpha: float | None = None,
    target_modules: str | Sequence[str] = "all-linear",
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    """Put low-rank adapters into a model: ``W x`` becomes ``W x + alpha / rank * B A x``, ``B = 0`` at first.

    ``W`` is frozen, ``A`` and ``B`` train. They are in the model's precision: where it is bfloat16, float32 adapters
    would keep a float32 copy of each layer's input for the backward pass; the optimiser has float32 weights anyway.

    Args:
        model: Changed in place.
        rank: Of ``B A``. More: closer to training all weights, and more memory. Usual: 8 to 64.
        alpha: Weight of the adapters. ``None``: ``2 * rank``.
        target_modules: Names of the layers, or ``"all-linear"``: all but the output layer.
        dropout: 0, as learning would not see the distribution that was sampled from.
        seed: Of ``A``.

    Returns:
        The ``peft.PeftModel``.

    Raises:
        InvalidOptionError: If an option cannot be, or the model has adapters already.
        MissingExtraError: If peft is missing.

    Source: Hu et al., arXiv:2106.09685, section 4.1.
    """
    check_lora(rank, alpha, dropout)
    if has_adapters(model):
        raise InvalidOptionError(
            f"Expected a model without adapters, actual: it has {sorted(model.peft_config)}. Train those, or load the "
            "base model."
        )
    peft = _import_peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        with _quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            return peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:  # peft names the layers that it looked for
        raise InvalidOptionError(
            f"Expected target_modules that are layers of {type(model).__name__}, actual: {target_modules!r} ({error}) "
            'Use "all-linear", or names out of model.named_modules().'
        ) from error


def light_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that can be trained and rebuilt by itself, and shares the weights that take no gradient."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared)


def without_adapters(model: Any) -> PreTrainedModel:
    """The model beneath the adapters, as a transformers model of its own that shares the frozen weights."""
    base: PreTrainedModel = light_copy(model).unload()
    return base


def merged(model: Any) -> PreTrainedModel:
    """A transformers model with the adapters added into its weights, which are copied first.

    In bfloat16 the sums are rounded: the policy changes by as much.

    Raises:
        InvalidOptionError: If there are no adapters.
    """
    if not has_adapters(model):
        raise InvalidOptionError(
            f"Expected a model with adapters to merge, actual: {type(model).__name__}. Save it as it is."
        )
    base: PreTrainedModel = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    return base.requires_grad_(True)


def _import_peft() -> Any:
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "lora")
    return importlib.import_module("peft")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that peft asks transformers for something by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield
