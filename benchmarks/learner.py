"""What learning costs: padding, tokens a second against transformers' eager forward and backward, and peak memory.

    python benchmarks/learner.py --json learner.json              # needs TRL for its last table: the extra `bench`
    python benchmarks/learner.py --parts speed                    # without TRL

*Speed*: one GRPO update (the cutting into microbatches, log-probabilities, loss, gradients and AdamW all counted) on
128 responses to 16 prompts, in turn with what a plain training step would do on the same tokens: one batch padded to
its longest response, transformers' own forward with logits for the responses alone, the clipped loss, backward, AdamW.
*floor* is the time of the matrix products that no learner can do without (see ``least_operations``), at the rate of a
large product measured in the same turn. *padding* is the share of tokens that go through the model and are none.

*Memory*: a small model with 150,000 words trains one step in a process of its own, TRL's GRPO in another one with the
same batch. Peak of resident memory above what there was once the model was loaded: logits are what it is made of. TRL
has the whole batch in one forward pass, and once more a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from profiles import peak_memory
from side_by_side import (
    Spread,
    answer_of,
    check_trl,
    clock_of,
    from_plain,
    in_turn,
    ratios,
    table,
    versions,
    write_json,
)
from tasks import CHARACTERS, END, SUMS, WORDS, llama, never, tokenizer
from transformers import LlamaForCausalLM, PreTrainedModel

from llmgym.agents.grpo import GRPO
from llmgym.agents.policies import Policy
from llmgym.agents.rollout_batches import RolloutBatch


@dataclass(frozen=True)
class Learner:
    """What to measure.

    Attributes:
        parts: "speed", and "memory", which needs TRL.
        hidden: Sizes of the Llama in the first part.
        lengths: "full" or "uneven", as in the comparison with TRL.
        n_prompts: Prompts of the update.
        group_size: Responses to each.
        max_new_tokens: Budget of a response.
        dtype: Of the weights.
        n_threads: 1: CPU seconds. More: wall seconds.
        repeats: Of each measurement.
        n_words: Vocabulary of the second part.
        memory_prompts: Prompts of its batch.
        memory_hidden: Size of its model, of two layers.
        few_rows: Rows in TRL's smaller forward passes.
        json: File for the figures.
    """

    parts: tuple[Literal["speed", "memory"], ...] = ("speed", "memory")
    hidden: tuple[int, ...] = (128, 256, 320)
    lengths: tuple[Literal["full", "uneven"], ...] = ("full", "uneven")
    n_prompts: int = 16
    group_size: int = 8
    max_new_tokens: int = 32
    dtype: Literal["float32", "bfloat16"] = "float32"
    n_threads: int = 1
    repeats: int = 5
    n_words: int = 150_000
    memory_prompts: int = 4
    memory_hidden: int = 64
    few_rows: int = 4
    json: Path | None = None


# -- speed ------------------------------------------------------------------------------------------------------------


def make_agent(options: Learner, policy: Policy, env: str, n_prompts: int, env_kwargs: dict[str, Any]) -> GRPO:
    """An agent that makes one step in an update, with a rate that leaves the policy about where it is."""
    return GRPO(
        policy,
        env,
        problems_per_iteration=n_prompts,
        group_size=options.group_size,
        n_minibatches=1,
        learning_rate=1e-6,
        warmup_iterations=0,
        final_learning_rate=1.0,
        loss_average="token",
        run_dir=None,
        env_kwargs={"max_new_tokens": options.max_new_tokens} | env_kwargs,
    )


class Eager:
    """A plain training step on a roll-out: everything padded, transformers' own code, one batch.

    Attributes:
        padding: Share of the tokens in its forward pass that are padding.
    """

    def __init__(self, model: LlamaForCausalLM, batch: RolloutBatch) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
        n_prompt = batch.prompt_ids.shape[1]
        self.responses = torch.from_numpy(batch.response_ids)
        self.mask = torch.from_numpy(batch.response_mask)
        self.ids = torch.cat([torch.from_numpy(batch.prompt_ids), self.responses], dim=1)
        written = torch.arange(self.responses.shape[1]) < torch.from_numpy(batch.response_lengths)[:, None]
        self.attention_mask = torch.cat([torch.ones(len(batch), n_prompt, dtype=torch.bool), written], dim=1).long()
        returns = torch.from_numpy(batch.episode_returns).float().view(-1, batch.group_size)
        advantages = (returns - returns.mean(1, keepdim=True)) / (returns.std(1, keepdim=True) + 1e-4)
        self.advantages = advantages.view(-1, 1)
        self.padding = 1.0 - float(self.attention_mask.float().mean())

    def __call__(self) -> None:
        n_tokens = self.responses.shape[1]
        logits = self.model(
            input_ids=self.ids, attention_mask=self.attention_mask, use_cache=False, logits_to_keep=n_tokens + 1
        ).logits[:, :-1]
        logprobs = logits.float().log_softmax(-1).gather(2, self.responses[..., None])[..., 0]
        ratio = (logprobs - logprobs.detach()).exp()
        surrogate = torch.min(ratio * self.advantages, ratio.clamp(0.8, 1.2) * self.advantages)
        (-(surrogate * self.mask).sum() / self.mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def product_rate(dtype: torch.dtype, clock: Callable[[], float], n: int = 1024, device: str = "cpu") -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / min(in_turn({"mm": lambda: torch.mm(a, b, out=out)}, 5, clock)["mm"])


def least_operations(model: PreTrainedModel, batch: RolloutBatch) -> int:
    """Floating-point operations of the matrix products that an update cannot do without.

    Three products for each token and weight, forward and two backward. Of the layers: for the prompt of a group once,
    and for every response token but the last, whose state nobody reads. Of a prompt the last state alone is read, so
    for its other tokens the last layer ends with keys and values. Of the output layer: for response tokens alone.
    Attention's own products are left out.
    """
    head = model.get_output_embeddings().weight
    last = f"layers.{model.config.num_hidden_layers - 1}."
    everywhere = where_read = 0
    for name, weight in model.named_parameters():
        if weight.dim() != 2 or weight is head or "embed_tokens" in name:
            continue
        if last in name and not any(part in name for part in ("k_proj", "v_proj")):
            where_read += weight.numel()
        else:
            everywhere += weight.numel()
    n_chosen = int(batch.response_lengths.sum())
    prompts = batch.prompt_lengths[:: batch.group_size]
    n_fed = n_chosen - len(batch.response_lengths)
    n_read = n_fed + len(prompts)
    return 6 * (everywhere * (n_fed + int(prompts.sum())) + where_read * n_read + head.numel() * n_chosen)


def speed_row(options: Learner, hidden: int, lengths: str) -> dict[str, Any]:
    """Update and eager step in turn, and the floor."""
    dtype = getattr(torch, options.dtype)
    clock = clock_of(options.n_threads)
    policy = Policy(llama(hidden).to(dtype), tokenizer(), forbidden=never(END, len(CHARACTERS)))
    agent = make_agent(options, policy, SUMS, options.n_prompts, {"lengths": lengths})
    batch, _ = agent.collect()
    policy.forget()
    eager = Eager(llama(hidden).to(dtype), batch)
    told: dict[str, Any] = {}
    rates = []
    runs = {
        "update": lambda: told.update(agent.update(batch)),
        "eager": eager,
        "rate": lambda: rates.append(product_rate(dtype, clock)),
    }
    seconds = in_turn(runs, options.repeats, clock)
    n_tokens = int(batch.response_lengths.sum())
    floor = [least_operations(policy.model, batch) / rate for rate in rates[-options.repeats :]]
    return {
        "part": "speed",
        "n_parameters": sum(p.numel() for p in policy.model.parameters()),
        "lengths": lengths,
        "tokens": n_tokens,
        "padding": {"llmgym": told.get("train/padding_share"), "eager": eager.padding},
        "groups_with_signal": told["train/groups_with_signal"],
        "tokens_per_second": {
            name: Spread.of([n_tokens / once for once in timed])._asdict()
            for name, timed in (("llmgym", seconds["update"]), ("eager", seconds["eager"]), ("floor", floor))
        },
        "ratio": ratios(seconds["update"], seconds["eager"])._asdict(),
        "share_of_floor": ratios(seconds["update"], floor)._asdict(),
    }


def print_speed(rows: list[dict[str, Any]]) -> None:
    headings = ["parameters", "lengths", "padding, llmgym", "eager", "response tokens/s, llmgym", "eager", "floor"]
    cells = [
        [
            f"{row['n_parameters'] / 1e6:.2f} M",
            row["lengths"],
            *("–" if share is None else f"{100 * share:.1f} %" for share in row["padding"].values()),
            *(f"{rate['median']:,.0f}" for rate in row["tokens_per_second"].values()),
            f"{Spread(**row['ratio']):.2f}",
            f"{100 * row['share_of_floor']['median']:.0f} %",
        ]
        for row in rows
    ]
    print(table([*headings, "x eager", "of the floor"], cells))


# -- memory -----------------------------------------------------------------------------------------------------------


def memory_of(who: str, options: Learner) -> float:
    """MiB above what there was with the model loaded; for a process of its own."""
    torch.set_num_threads(options.n_threads)
    model = llama(options.memory_hidden, 2, options.n_words)
    if who == "llmgym":
        agent = make_agent(
            options,
            Policy(model, tokenizer(options.n_words)),
            WORDS,
            options.memory_prompts,
            {"n_words": options.n_words, "prompt_tokens": 6, "lengths": "free"},
        )
        with peak_memory() as peak:
            agent.iterate()
            return peak()
    from trl_peer import Work, grpo_trainer

    rng = np.random.default_rng(0)
    prompts = [" ".join(f"w{i}" for i in rng.integers(3, options.n_words, size=6)) for _ in range(64)]
    work = Work(
        prompts=prompts,
        n_prompts=options.memory_prompts,
        group_size=options.group_size,
        max_new_tokens=options.max_new_tokens,
        n_steps=1,
        lengths="free",
        microbatch=options.few_rows if who == "TRL, few rows" else None,
        n_words=options.n_words,
    )
    trainer = grpo_trainer(model, work, [])
    with peak_memory() as peak:
        trainer.train()
        return peak()


def answer(who: str, plain: dict[str, Any]) -> float:
    """What a process of the second part does."""
    return memory_of(who, from_plain(Learner, plain))


def memory_rows(options: Learner) -> list[dict[str, Any]]:
    """A row for each of the three."""
    peaks: dict[str, list[float]] = {"llmgym": [], "TRL": [], "TRL, few rows": []}
    for _ in range(min(3, options.repeats)):
        for who, found in peaks.items():
            found.append(answer_of("learner:answer", who, asdict(options) | {"json": None}))
    return [
        {
            "part": "memory",
            "who": who,
            "mib": Spread.of(found)._asdict(),
            "llmgym_takes": ratios(found, peaks["llmgym"])._asdict(),
        }
        for who, found in peaks.items()
    ]


def print_memory(options: Learner, rows: list[dict[str, Any]]) -> None:
    n = options.memory_prompts * options.group_size
    print(f"\n{n} responses of up to {options.max_new_tokens} tokens, {options.n_words:,} words:\n")
    cells = [[row["who"], f"{Spread(**row['mib']):,.0f}", f"{Spread(**row['llmgym_takes']):.2f}"] for row in rows]
    print(table(["", "peak, MiB", "llmgym takes"], cells))


def main(options: Learner) -> list[dict[str, Any]]:
    """Measure, print, write."""
    torch.set_num_threads(options.n_threads)
    rows = []
    if "speed" in options.parts:
        rows += [speed_row(options, hidden, lengths) for hidden in options.hidden for lengths in options.lengths]
        print_speed(rows)
    if "memory" in options.parts:
        check_trl()
        rows += memory_rows(options)
        print_memory(options, [row for row in rows if row["part"] == "memory"])
    write_json(options.json, options, rows, versions=versions("torch", "transformers", "trl"))
    return rows


if __name__ == "__main__":
    main(tyro.cli(Learner, description=__doc__))
