"""Makes the tiny model that ships with the package, from nothing: tokenizer, architecture, supervised training.

    python scripts/make_tiny_reasoner.py                     # about 50 minutes on two CPU cores
    python scripts/make_tiny_reasoner.py --n-steps 200 --output /tmp/tiny   # a quick look

The same seed gives the same weights on the same machine and library versions. The data are problems of the train
split of ``llmgym/MathReason-v0``, each with one of three responses:

- *terse*: an empty thinking part and the answer at once;
- *short*: the solution as a single line, several operations done in one go;
- *full*: one small operation a line.

Most are terse, so that the base answers badly on its first try and well on one of several: the gap that reinforcement
learning closes. Nothing tells the model which of the three it should prefer.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from llmgym.agents.sft import SFT, Example, SFTConfig
from llmgym.envs.math_reason import MathTask, demonstrations

PAD, EOS = "<pad>", "<eos>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ASSETS = Path(__file__).parent.parent / "llmgym" / "assets" / "tiny-reasoner"


@dataclass(frozen=True)
class Recipe:
    """How the tiny model is made.

    Attributes:
        output: Folder to write the model to.
        seed: Of the data, the initial weights and the order of batches.
        n_steps: Optimizer steps.
        vocab_size: Entries of the byte-level BPE vocabulary.
        hidden_size: Width.
        n_layers: Depth.
        terse: Share of terse responses.
        short: Share of short ones; the rest is full.
        sft: Hyperparameters of the training.
        n_threads: CPU threads; another number can change the last bits of the weights.
    """

    output: Path = ASSETS
    seed: int = 0
    n_steps: int = 4500
    vocab_size: int = 640
    hidden_size: int = 160
    n_layers: int = 4
    terse: float = 0.5
    short: float = 0.25
    sft: SFTConfig = field(default_factory=SFTConfig)
    n_threads: int = 2


def train_tokenizer(vocab_size: int, seed: int, n_problems: int = 30_000) -> Tokenizer:
    """Byte-level BPE: any Unicode text, without loss; a digit, a sign and a line end are a token each."""
    rng = np.random.default_rng(seed)
    task = MathTask()
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


def examples(tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Example]:
    """Endless supervised examples, as token ids."""
    end = tokenizer.token_to_id(EOS)
    task = MathTask(split="train")
    for problem, response in demonstrations(task, seed=recipe.seed, terse=recipe.terse, short=recipe.short):
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
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)


def main(recipe: Recipe) -> None:
    """Make the model."""
    torch.set_num_threads(recipe.n_threads)
    tokenizer = train_tokenizer(recipe.vocab_size, recipe.seed)
    model = build_model(recipe, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    started = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == 1:
            seconds = time.perf_counter() - started
            print(f"step {step:5d}/{recipe.n_steps}  loss {loss:.4f}  {seconds:6.0f} s", flush=True)
        if step % 1000 == 0:
            write(recipe.output, model, tokenizer)

    SFT(model, examples(tokenizer, recipe), recipe.sft).learn(recipe.n_steps, callback=report)
    write(recipe.output, model, tokenizer)
    print(f"written to {recipe.output}")


if __name__ == "__main__":
    main(tyro.cli(Recipe))
