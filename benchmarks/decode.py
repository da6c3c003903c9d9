"""How fast a policy plays: tokens a second of the ``policy.act`` loop against transformers' ``model.generate``.

Both play the same prompts for the same number of tokens at temperature 1; the end token is suppressed, so nobody stops
early. ``act`` also returns the log-probability of each token, which ``generate`` does not. With one thread the clock
is this process's CPU time, so other work on the machine matters little.

    python benchmarks/decode.py --slots 256 --tokens 64

Columns: ``act`` groups share their prompt; ``act, no groups`` computes every prompt; ``generate`` is transformers with
its dynamic cache and its own attention. Takes about half a minute.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmgym.agents.policies import Policy

END, PAD = 1, 0


def make_model(arguments: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=int(arguments.hidden * 8 / 3) // 32 * 32,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 32,
        num_key_value_heads=arguments.hidden // 32,
        max_position_embeddings=1024,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def play(policy: Policy, prompts: np.ndarray, n_tokens: int) -> np.ndarray:
    """The loop of an agent, without an environment: append what was chosen."""
    n, length = prompts.shape
    ids = np.zeros((n, length + n_tokens), dtype=np.int32)
    ids[:, :length] = prompts
    mask = np.zeros((n, length + n_tokens), dtype=np.int8)
    mask[:, :length] = 1
    policy.forget()
    for step in range(n_tokens):
        actions, _ = policy.act({"input_ids": ids, "attention_mask": mask})
        ids[:, length + step] = actions
        mask[:, length + step] = 1
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("slots", 256), ("group", 8), ("prompt", 25), ("tokens", 64), ("hidden", 160), ("layers", 4),
        ("vocabulary", 640), ("threads", 1), ("repeats", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    if arguments.group < 1 or arguments.slots < arguments.group or arguments.slots % arguments.group:
        parser.error(
            f"Expected --slots to be a positive multiple of --group {arguments.group}, actual: {arguments.slots}. "
            "Change one of them."
        )
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter

    theirs, ours = make_model(arguments), make_model(arguments)
    forbidden = dict.fromkeys(range(arguments.vocabulary), (END,))  # nobody stops
    policy = Policy(ours, forbidden=forbidden)
    rng = np.random.default_rng(0)
    distinct = rng.integers(2, arguments.vocabulary, size=(arguments.slots // arguments.group, arguments.prompt))
    groups = np.repeat(distinct, arguments.group, axis=0)
    singles = rng.integers(2, arguments.vocabulary, size=groups.shape)

    def generate() -> torch.Tensor:
        ids = torch.from_numpy(groups)
        with torch.no_grad():
            return theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=arguments.tokens, suppress_tokens=[END], pad_token_id=PAD,
            )  # fmt: skip

    runs = {
        "act": lambda: play(policy, groups, arguments.tokens),
        "act, no groups": lambda: play(policy, singles, arguments.tokens),
        "generate": generate,
    }
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()  # first calls allocate
    for _ in range(arguments.repeats):  # in turn, so that a busy minute hits all of them
        for name, run in runs.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)

    n_parameters = sum(p.numel() for p in ours.parameters())
    sizes = f"{arguments.slots} slots, {arguments.prompt} + {arguments.tokens} tokens"
    print(f"{n_parameters / 1e6:.2f} M parameters, {sizes}, {arguments.threads} thread(s)")
    for name, seconds in best.items():
        rate = arguments.slots * arguments.tokens / seconds
        print(f"{name:16} {rate:10,.0f} tokens/s   {best['generate'] / seconds:5.2f} x generate")


if __name__ == "__main__":
    main()
