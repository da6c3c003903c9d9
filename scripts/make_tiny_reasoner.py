"""Makes the tiny model that ships with the package, from nothing: tokenizer, architecture, supervised training.

    python scripts/make_tiny_reasoner.py                     # about 55 minutes on two CPU cores
    python scripts/make_tiny_reasoner.py --max-steps 200 --output /tmp/tiny   # a quick look

The same seed gives the same weights on the same machine and library versions. The data are problems of the train
split of ``llmgym/MathReason-v0``, each with one of three responses:

- *terse*: an empty thinking part and the answer at once;
- *short*: the solution as a single line, several operations done in one go;
- *full*: one small operation a line.

In each of four stages it first learns to calculate, from a mix of all three. Then, while the learning rate falls, most
examples are terse, so that the base answers badly on its first try and well on one of several: the gap that
reinforcement learning closes. Nothing tells the model which of the three it should prefer.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from llmgym.agents.saving import put_in_place
from llmgym.agents.sft import SFT, Example, SFTConfig
from llmgym.envs.math_reason import FAMILIES, MathTask, demonstrations

PAD, EOS = "<pad>", "<eos>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ASSETS = Path(__file__).parent.parent / "llmgym" / "assets" / "tiny-reasoner"


@dataclass(frozen=True)
class Stage:
    """One course of training.

    Attributes:
        levels: Of the problems.
        n_steps: Optimizer steps.
        n_learning: Examples of its first phase, in which the model learns to calculate.
        learning_mix: Shares of terse and short responses in it; the rest is full.
        final_mix: The same for the rest of the stage, in which the model becomes terse.
        decay_share: Last share of the steps, over which the learning rate falls to zero.
        families: Of the problems, drawn evenly; one that is named three times comes three times as often.
    """

    levels: tuple[int, ...]
    n_steps: int
    n_learning: int
    learning_mix: tuple[float, float]
    final_mix: tuple[float, float]
    decay_share: float
    families: tuple[str, ...] = tuple(FAMILIES)


#: The two families that need a plan, and so the most practice.
PRACTICE = 3 * ("expression", "target") + ("arithmetic", "word", "equation")

#: Short numbers first; then longer ones, which take the same small operations, more of them. Each stage is more terse.
STAGES = (
    Stage((1, 2), 2800, 310_000, learning_mix=(0.2, 0.3), final_mix=(0.64, 0.18), decay_share=0.35),
    Stage((2, 3), 1100, 100_000, learning_mix=(0.1, 0.2), final_mix=(0.75, 0.1), decay_share=0.5),
    Stage((2, 3), 900, 67_000, learning_mix=(0.05, 0.15), final_mix=(0.85, 0.05), decay_share=0.5),
    Stage((2, 3), 600, 50_000, learning_mix=(0.03, 0.07), final_mix=(0.9, 0.03), decay_share=0.5, families=PRACTICE),
)


@dataclass(frozen=True)
class Recipe:
    """How the tiny model is made.

    Attributes:
        output: Folder to write the model to.
        seed: Of the data, the initial weights and the order of batches.
        max_steps: Optimizer steps in each stage at most; for a quick look.
        vocab_size: Entries of the byte-level BPE vocabulary.
        hidden_size: Width.
        n_layers: Depth.
        sft: Hyperparameters of the training.
        n_threads: CPU threads; another number can change the last bits of the weights.
    """

    output: Path = ASSETS
    seed: int = 0
    max_steps: int | None = None
    vocab_size: int = 640
    hidden_size: int = 160
    n_layers: int = 4
    sft: SFTConfig = field(default_factory=SFTConfig)
    n_threads: int = 2


def train_tokenizer(vocab_size: int, seed: int, n_problems: int = 30_000) -> Tokenizer:
    """Byte-level BPE: any Unicode text, without loss; a digit, a sign and a line end are a token each."""
    rng = np.random.default_rng(seed)
    task = MathTask(level=(1, 2))  # longer numbers bring no new words
    problems = [task.sample(rng) for _ in range(n_problems)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\s\p{L}]|\n"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(PAD, special=True), AddedToken(EOS, special=True)])
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, *TAGS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{p.question}\n{p.gold_reasoning}" for p in problems), trainer)
    # The trainer marks its special tokens as special; the tags are ordinary text that happens to be one token each.
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] in (PAD, EOS)
    return Tokenizer.from_str(json.dumps(state))


def examples(tokenizer: Tokenizer, stage: Stage, seed: int) -> Iterator[Example]:
    """Endless supervised examples, as token ids."""
    end = tokenizer.token_to_id(EOS)
    task = MathTask(split="train", level=stage.levels, families=stage.families)
    learning, final = (
        demonstrations(task, seed=seed + phase, terse=terse, short=short)
        for phase, (terse, short) in enumerate((stage.learning_mix, stage.final_mix))
    )
    for problem, response in itertools.chain(itertools.islice(learning, stage.n_learning), final):
        prompt = tokenizer.encode(f"{problem.question}\n", add_special_tokens=False).ids
        yield prompt, [*tokenizer.encode(response, add_special_tokens=False).ids, end]


def build_model(recipe: Recipe, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A small Llama with random weights."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 14 // 5,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.hidden_size // 32,
        num_key_value_heads=recipe.hidden_size // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(EOS),
    )
    return LlamaForCausalLM(config)


def write(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Write model and tokenizer beside the folder and swap them in, so that a reader never sees half of them."""
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save(str(beside / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "padding_side": "left",
    }
    (beside / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for file in beside.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    put_in_place(beside, folder)


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, stage: Stage, recipe: Recipe, number: int) -> None:
    """One stage; optimizer and learning rate start afresh."""
    n_steps = min(stage.n_steps, recipe.max_steps or stage.n_steps)
    started = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == 1:
            seconds = time.perf_counter() - started
            print(f"stage {number + 1}  step {step:4d}/{n_steps}  loss {loss:.4f}  {seconds:5.0f} s", flush=True)

    seed = recipe.seed + 10 * number
    config = replace(recipe.sft, decay_share=stage.decay_share, seed=seed)
    SFT(model, examples(tokenizer, stage, seed), config).learn(n_steps, callback=report)
    write(recipe.output, model, tokenizer)


def main(recipe: Recipe) -> None:
    """Make the model."""
    torch.set_num_threads(recipe.n_threads)
    tokenizer = train_tokenizer(recipe.vocab_size, recipe.seed)
    model = build_model(recipe, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    for number, stage in enumerate(STAGES):
        train(model, tokenizer, stage, recipe, number)
    print(f"written to {recipe.output}")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
