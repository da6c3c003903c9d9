"""How fast a policy plays: tokens a second of the ``policy.act`` loop against transformers' ``model.generate``.

All play the same prompts at temperature 1, in turn in one process. ``act`` also returns the log-probability of each
token, which ``generate`` does not. With one thread the clock is this process's CPU time, so other work on the machine
matters little.

    python benchmarks/decode.py                                        # 8, 64 and 256 slots, two sizes, ten minutes
    python benchmarks/decode.py --slots 256 --hidden 128 --lengths full --repeats 3

"full": every response has as many tokens as the budget; the end token is never sampled. "uneven": lengths drawn
uniformly between a tenth of the budget and all of it; ``generate`` plays batches of as many prompts as there are slots,
each as long as its longest response; in the loop a slot that ends takes the next prompt. Both count the tokens that
responses have, not what pads them.

Rows: ``act`` is the policy alone; ``act, no groups`` computes every prompt, where otherwise those of a group are
computed once; ``collect`` is the whole loop of an agent: the same with a native environment, its rewards and the record
of the episodes. ``floor`` is the time of the bare matrix products of each step, all slots busy: no loop over this model
can be faster in this precision. What is not matrix products is then shown by kind, from torch's profiler.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from profiles import by_operator
from side_by_side import Spread, clock_of, in_turn, ratios, table, versions, write_json
from tasks import END, PAD, SUMS, EndAt, draw_lengths, llama, never, tokenizer
from transformers import LlamaForCausalLM

from llmgym.agents.policies import Policy
from llmgym.agents.rollouts import collect


class Loop:
    """The loop of an agent without an environment: append what was chosen; a slot that ends takes the next prompt.

    Args:
        policy: Who plays.
        prompts: ``(n, L)``. In the order in which slots take them.
        lengths: ``(n,)``. Tokens of the response to each.
        n_slots: Responses at once.
    """

    def __init__(self, policy: Policy, prompts: np.ndarray, lengths: np.ndarray, n_slots: int) -> None:
        self.policy, self.prompts, self.lengths, self.n_slots = policy, prompts, lengths, n_slots

    def __call__(self) -> None:
        n, n_prompt = self.prompts.shape
        ids = np.zeros((self.n_slots, n_prompt + int(self.lengths.max())), dtype=np.int32)
        mask = np.zeros(ids.shape, dtype=np.int8)
        ends = np.zeros(self.n_slots, dtype=np.int64)
        written = np.zeros(self.n_slots, dtype=np.int64)  # tokens in each slot, its prompt's too
        waiting = np.zeros(self.n_slots, dtype=bool)
        restarted = np.ones(self.n_slots, dtype=bool)
        slots = np.arange(self.n_slots)
        taken = 0
        self.policy.forget()
        while True:
            for slot in np.flatnonzero(restarted).tolist():
                mask[slot] = 0
                if taken == n:
                    waiting[slot], restarted[slot] = True, False
                    continue
                ids[slot, :n_prompt] = self.prompts[taken]
                mask[slot, :n_prompt] = 1
                written[slot], ends[slot] = n_prompt, n_prompt + self.lengths[taken]
                taken += 1
            if waiting.all():
                return
            actions, _ = self.policy.act({"input_ids": ids, "attention_mask": mask}, restarted, waiting)
            acting = slots[~waiting]
            ids[acting, written[acting]] = actions[acting]
            mask[acting, written[acting]] = 1
            written[acting] += 1
            restarted = ~waiting & (written == ends)


class Case:
    """One row of settings: what is played, and the ways of playing it.

    Args:
        arguments: Of the command line.
        hidden: Size of the model.
        n_slots: Responses at once.
        lengths: "full" or "uneven".
    """

    def __init__(self, arguments: argparse.Namespace, hidden: int, n_slots: int, lengths: str) -> None:
        self.arguments, self.n_slots, self.uneven = arguments, n_slots, lengths == "uneven"
        n_words = arguments.vocabulary
        self.theirs, ours = (llama(hidden, arguments.layers, n_words, positions=1024) for _ in range(2))
        self.theirs, ours = (model.to(getattr(torch, arguments.dtype)) for model in (self.theirs, ours))
        self.policy = Policy(ours, forbidden=never(END, n_words))
        rng = np.random.default_rng(0)
        self.n_batches = arguments.batches if self.uneven else 1
        n = n_slots * self.n_batches
        distinct = rng.integers(3, n_words, size=(n // arguments.group, arguments.prompt))
        self.groups = np.repeat(distinct, arguments.group, axis=0)
        singles = rng.integers(3, n_words, size=self.groups.shape)
        budget = arguments.tokens
        self.lengths = draw_lengths(n, budget, rng) if self.uneven else np.full(n, budget)
        self.act = Loop(self.policy, self.groups, self.lengths, n_slots)
        self.runs: dict[str, Callable[[], Any]] = {
            "act": self.act,
            "act, no groups": Loop(self.policy, singles, self.lengths, n_slots),
            "generate": self.generate,
            "floor": self.floor,
        }
        self.n_tokens = int(self.lengths.sum())
        self.products = step_products(self.theirs, n_slots)
        # The environment has prompts of six tokens and draws its own lengths.
        if n_words == tokenizer().vocab_size and arguments.prompt == 6:
            self.collected: list[int] = []
            self.envs = gym.make_vec(
                SUMS, num_envs=n_slots, max_new_tokens=budget, lengths=lengths, autoreset_mode="disabled"
            )
            self.runs["collect"] = self.collect

    def collect(self) -> None:
        group, n = self.arguments.group, len(self.lengths)
        batch = collect(self.envs, self.policy, group_size=group, n_groups=n // group, seed=0)
        self.collected.append(int(batch.response_lengths.sum()))

    @torch.no_grad()
    def generate(self) -> None:
        """Batches of as many responses as there are slots."""
        for first in range(0, len(self.groups), self.n_slots):
            ids = torch.from_numpy(self.groups[first : first + self.n_slots])
            lengths = self.lengths[first : first + self.n_slots]
            ending: dict[str, Any] = {"suppress_tokens": [END]}
            if self.uneven:
                ending = {"logits_processor": [EndAt(lengths, ids.shape[1])]}
            self.theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=int(lengths.max()), pad_token_id=PAD, eos_token_id=END, **ending,
            )  # fmt: skip

    def floor(self) -> None:
        """The matrix products of as many steps as full slots need, and nothing else."""
        for _ in range(round(self.lengths.sum() / self.n_slots)):
            multiply(self.products)

    def measure(self) -> dict[str, Any]:
        """Seconds of each way in turn, and what follows from them."""
        arguments = self.arguments
        clock = clock_of(arguments.threads)
        seconds = in_turn(self.runs, arguments.repeats, clock)
        n_tokens = {name: [self.n_tokens] * len(timed) for name, timed in seconds.items()}
        if "collect" in self.runs:
            n_tokens["collect"] = self.collected[-arguments.repeats :]
        per_token = {
            name: [once / n for once, n in zip(timed, n_tokens[name], strict=True)] for name, timed in seconds.items()
        }
        theirs = per_token["generate"]
        return {
            "tokens_per_second": {
                name: Spread.of([1 / once for once in timed])._asdict() for name, timed in per_token.items()
            },
            "ratio_to_generate": {name: ratios(timed, theirs)._asdict() for name, timed in per_token.items()},
            "share_of_floor": {name: ratios(timed, per_token["floor"])._asdict() for name, timed in per_token.items()},
            "by_operator": by_operator(self.act) if arguments.threads == 1 else {},
        }


Products = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def multiply(products: Products) -> None:
    """All of them, one after the other."""
    for x, weight, out in products:
        torch.mm(x, weight, out=out)


def step_products(model: LlamaForCausalLM, n_rows: int) -> Products:
    """Input, weight and output of each matrix product of one step, products of the same input made one.

    The weights lie in memory as the step is faster: by rows or by columns.
    """
    weights = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        weights += [
            torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
            attention.o_proj.weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            mlp.down_proj.weight,
        ]
    weights.append(model.lm_head.weight)
    layouts: dict[str, Products] = {"columns": [], "rows": []}
    for weight in (weight.detach() for weight in weights):
        x = torch.randn(n_rows, weight.shape[1]).to(weight.dtype)
        out = torch.empty(n_rows, weight.shape[0], dtype=weight.dtype)
        layouts["columns"].append((x, weight.t(), out))
        layouts["rows"].append((x, weight.t().contiguous(), out))
    seconds = in_turn({name: partial(multiply, of) for name, of in layouts.items()}, 10, time.perf_counter)
    return layouts[min(layouts, key=lambda name: min(seconds[name]))]


def print_rows(rows: list[dict[str, Any]], names: list[str]) -> None:
    """Two tables: rates, then where the loop's time goes."""
    cells, kinds = [], []
    for row in rows:
        settings = [f"{row['n_parameters'] / 1e6:.2f} M", row["lengths"], row["slots"]]
        rates, ratio = row["tokens_per_second"], row["ratio_to_generate"]
        for name in names:
            if name in rates:
                share = row["share_of_floor"][name]["median"]
                times = f"{Spread(**ratio[name]):.2f}"
                cells.append([*settings, name, f"{rates[name]['median']:,.0f}", times, f"{100 * share:.0f} %"])
        if row["by_operator"]:
            kinds.append([*settings, *(f"{100 * share:.0f} %" for share in row["by_operator"].values())])
    print(table(["parameters", "lengths", "slots", "", "tokens/s", "x generate", "of the floor"], cells))
    if kinds:
        print("\nTime of the `act` loop by kind of operator, under torch's profiler:\n")
        print(table(["parameters", "lengths", "slots", *rows[0]["by_operator"]], kinds))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, many in (
        ("slots", [8, 64, 256], True), ("hidden", [128, 256], True), ("group", 8, False), ("prompt", 6, False),
        ("tokens", 64, False), ("batches", 4, False), ("layers", 4, False), ("vocabulary", 64, False),
        ("threads", 1, False), ("repeats", 5, False),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, nargs="+" if many else None)
    parser.add_argument("--lengths", nargs="+", choices=["full", "uneven"], default=["full", "uneven"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    for slots in arguments.slots:
        if arguments.group < 1 or slots < arguments.group or slots % arguments.group:
            parser.error(
                f"Expected --slots to be a positive multiple of --group {arguments.group}, actual: {slots}. "
                "Change one of them."
            )
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    rows = []
    for hidden, lengths, n_slots in product(arguments.hidden, arguments.lengths, arguments.slots):
        case = Case(arguments, hidden, n_slots, lengths)
        n_parameters = sum(p.numel() for p in case.theirs.parameters())
        rows.append({"n_parameters": n_parameters, "lengths": lengths, "slots": n_slots, **case.measure()})
        times = rows[-1]["ratio_to_generate"]["act"]["median"]
        print(f"{hidden} {lengths} {n_slots}: act is {times:.2f} x generate", file=sys.stderr, flush=True)
    sizes = f"{arguments.prompt} + {arguments.tokens} tokens in groups of {arguments.group}, {arguments.dtype}"
    print(f"{sizes}, {arguments.threads} thread(s); median (lowest-highest) of {arguments.repeats}\n")
    print_rows(rows, ["act", "act, no groups", "collect", "generate", "floor"])
    write_json(arguments.json, arguments, rows, versions=versions("torch", "transformers"))


if __name__ == "__main__":
    main()
