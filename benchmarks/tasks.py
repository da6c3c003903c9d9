"""What the programs that measure speed play: tasks, tokenizers and models made on the spot, nothing downloaded.

*Sums* is learned from ("12+34=", answered by "46" and the end token) and measured on: 64 characters, prompts of six
tokens. *Words* is a task with as many words as a large model's vocabulary. Both are native vector environments of
llmgym under an id, so what is measured is what an agent that is given an id uses.

How long responses are can be fixed, the same for llmgym and for a peer:

* ``lengths="free"``: as the policy ends them;
* ``lengths="full"``: the end token is never sampled (see :func:`never`), so the budget ends every response;
* ``lengths="uneven"``: each response has a number of tokens drawn uniformly between a tenth of the budget and all of
  it. Here the environment reads the last of them as the end token, whatever was sampled; a peer without an environment
  has its sampler write the end token in that place (:class:`EndAt`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, PreTrainedTokenizerFast

from llmgym.rewards.base import Reward
from llmgym.rewards.stack import REWARDS
from llmgym.tasks import Problem, question_hash
from llmgym.tokenizers import Tokenizer
from llmgym.transcript import Transcript
from llmgym.vector import LanguageVectorEnv

Lengths = Literal["free", "full", "uneven"]

PAD, END, UNKNOWN = 0, 1, 2
#: One character a token, special ones too: a text has as many characters as tokens.
CHARACTERS = "_.?0123456789+-*/=()[]{}<>,:;! abcdefghijklmnopqrstuvwxyzABCDEFGH"[:64]
SUMS, WORDS = "benchmarks/Sums-v0", "benchmarks/Words-v0"
#: One question in this many is held out.
TEST_SHARE = 10


# -- tokenizers -------------------------------------------------------------------------------------------------------


def _description(pieces: Sequence[str], pattern: str, *, isolated: bool) -> str:
    """The text of a ``tokenizer.json`` that knows whole pieces; the first three are padding, end and unknown."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{"id": i, "content": pieces[i]} | special for i in range(3)],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated" if isolated else "Removed",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"} if isolated else None,
            "model": {
                "type": "WordLevel",
                "vocab": {piece: i for i, piece in enumerate(pieces)},
                "unk_token": pieces[UNKNOWN],
            },
        }
    )


@lru_cache(maxsize=4)
def tokenizer_json(n_words: int | None = None) -> str:
    """Of sums, or of words with ``n_words`` of them."""
    if n_words is None:
        return _description(CHARACTERS, ".", isolated=True)
    return _description(["<pad>", "<end>", "<unk>", *(f"w{i}" for i in range(3, n_words))], " ", isolated=False)


def _special(n_words: int | None) -> dict[str, str]:
    pad, end = ("<pad>", "<end>") if n_words else CHARACTERS[:2]
    return {"pad_token": pad, "eos_token": end}


@lru_cache(maxsize=4)
def tokenizer(n_words: int | None = None) -> Tokenizer:
    """For an environment."""
    return Tokenizer.from_json(tokenizer_json(n_words), **_special(n_words))


def peer_tokenizer(n_words: int | None = None) -> PreTrainedTokenizerFast:
    """The same for transformers and what is built on it."""
    from tokenizers import Tokenizer as BackendTokenizer

    backend = BackendTokenizer.from_str(tokenizer_json(n_words))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **_special(n_words), padding_side="left", clean_up_tokenization_spaces=False
    )


# -- tasks, rewards, environments -------------------------------------------------------------------------------------


class SumsTask:
    """Two numbers of ``n_digits`` digits each, to be added. A hash of the question decides on its split."""

    replies = False

    def __init__(self, n_digits: int = 2, split: str = "train") -> None:
        self.n_digits, self.split = n_digits, split

    def sample(self, rng: np.random.Generator) -> Problem:
        while True:
            first, second = (int(number) for number in rng.integers(10**self.n_digits, size=2))
            question = self.question(first, second, self.n_digits)
            if self.is_held_out(question) == (self.split == "test"):
                return Problem(question, str(first + second), problem_id=question, family="sums")

    @staticmethod
    def question(first: int, second: int, n_digits: int) -> str:
        return f"{first:0{n_digits}d}+{second:0{n_digits}d}="

    @staticmethod
    def is_held_out(question: str) -> bool:
        return int.from_bytes(question_hash(question)[:8], "big") % TEST_SHARE == 0

    def reply(self, problem: Problem, transcript: Transcript) -> None:
        return None


class WordsTask:
    """Prompts of random words."""

    replies = False

    def __init__(self, n_words: int, prompt_tokens: int) -> None:
        self.n_words, self.prompt_tokens = n_words, prompt_tokens

    def sample(self, rng: np.random.Generator) -> Problem:
        question = " ".join(f"w{i}" for i in rng.integers(3, self.n_words, size=self.prompt_tokens))
        return Problem(question, "", problem_id=question, family="words")

    def reply(self, problem: Problem, transcript: Transcript) -> None:
        return None


def even_share(ids: Sequence[int]) -> float:
    """Share of even numbers among the tokens before the end: a reward that tells apart the responses of every group."""
    written = [token for token in ids if token != END]
    return sum(token % 2 == 0 for token in written) / max(1, len(written))


_EVEN = frozenset(CHARACTERS[::2])


class EvenShare(Reward):
    """:func:`even_share`, read off the text."""

    name = "even_share"

    def score(self, transcript: Transcript) -> float:
        response = transcript.response
        return sum(map(_EVEN.__contains__, response)) / max(1, len(response))


class EvenWords(Reward):
    """The same of words."""

    name = "even_words"

    def score(self, transcript: Transcript) -> float:
        words = transcript.response.split()
        return sum(word[-1] in "02468" for word in words) / max(1, len(words))


class ExactSum(Reward):
    """1 for the right sum and the end token right after it."""

    name = "exact_sum"

    def score(self, transcript: Transcript) -> float:
        ended = transcript.stop_reason is not None and transcript.stop_reason.terminated
        return float(ended and transcript.response == transcript.problem.reference_answer)


for _reward in (EvenShare, EvenWords, ExactSum):
    REWARDS.setdefault(_reward.name, _reward)


class MeasuredVectorEnv(LanguageVectorEnv):
    """An environment of llmgym whose responses can be given drawn lengths: see the top of this file."""

    def __init__(self, task: Any, num_envs: int, *, lengths: Lengths, **options: Any) -> None:
        super().__init__(task, num_envs, **options)
        self._budget = self.engine.options.max_new_tokens
        self._lengths_rng = np.random.default_rng(0)
        self._uneven = lengths == "uneven"
        self._ends = np.zeros(num_envs, dtype=np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self._ends[mask] = draw_lengths(int(mask.sum()), self._budget, self._lengths_rng)
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        if self._uneven:
            ends = (self.process.n_new_tokens + 1 >= self._ends) & (actions >= 0)
            actions = np.where(ends, END, actions)
        return super().step(actions)


class SumsVectorEnv(MeasuredVectorEnv):
    """Sums, as an entry point."""

    def __init__(
        self, num_envs: int = 1, *, n_digits: int = 2, split: str = "train", lengths: Lengths = "free", **options: Any
    ) -> None:
        own = {"tokenizer": tokenizer(), "prompt_template": "{question}", "max_prompt_tokens": 2 * n_digits + 2}
        own |= {"rewards": {("exact_sum" if lengths == "free" else "even_share"): 1.0}}
        super().__init__(SumsTask(n_digits, split), num_envs, lengths=lengths, **(own | options))


class WordsVectorEnv(MeasuredVectorEnv):
    """Words, as an entry point."""

    def __init__(
        self, num_envs: int = 1, *, n_words: int, prompt_tokens: int, lengths: Lengths = "full", **options: Any
    ) -> None:
        own = {"tokenizer": tokenizer(n_words), "prompt_template": "{question}", "max_prompt_tokens": prompt_tokens}
        own |= {"rewards": {"even_words": 1.0}}
        super().__init__(WordsTask(n_words, prompt_tokens), num_envs, lengths=lengths, **(own | options))


for _id, _entry_point in ((SUMS, SumsVectorEnv), (WORDS, WordsVectorEnv)):
    if _id not in gym.registry:
        gym.register(_id, vector_entry_point=_entry_point)


# -- lengths ----------------------------------------------------------------------------------------------------------


def draw_lengths(n: int, budget: int, rng: np.random.Generator) -> np.ndarray:
    """``(n,)`` lengths, uniform between a tenth of the budget and all of it."""
    return rng.integers(max(1, budget // 10), budget + 1, size=n)


def never(token: int, n_actions: int) -> dict[int, tuple[int, ...]]:
    """For ``Policy(forbidden=...)``: a token that may not follow any other."""
    return dict.fromkeys(range(n_actions), (token,))


class EndAt(LogitsProcessor):
    """For ``generate``: the end token where it is due, and nowhere else.

    Args:
        lengths: ``(B,)``. Tokens of each response, the end token included.
        prompt_tokens: Of each prompt, padding included.
    """

    def __init__(self, lengths: np.ndarray, prompt_tokens: int) -> None:
        self.lengths, self.prompt_tokens = torch.from_numpy(lengths), prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        due = (input_ids.shape[1] - self.prompt_tokens + 1 >= self.lengths).to(scores.device)
        scores[:, END] = float("-inf")  # the logits of this step: nobody else reads them
        scores[due] = float("-inf")
        scores[due, END] = 0.0
        return scores


# -- models -----------------------------------------------------------------------------------------------------------


def llama(
    hidden: int, layers: int = 4, n_words: int | None = None, *, seed: int = 0, positions: int = 512
) -> LlamaForCausalLM:
    """A Llama with random weights and heads of 32, in evaluation mode; the same seed gives the same weights."""
    if hidden % 32:
        raise SystemExit(f"Expected a hidden size that is a multiple of 32 (heads of 32), actual: {hidden}. Round it.")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=n_words or len(CHARACTERS),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=positions,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        tie_word_embeddings=False,
        attention_dropout=0.0,
    )
    return LlamaForCausalLM(config).eval()


def warm_llama(hidden: int, layers: int = 4, *, n_steps: int = 1250, n_digits: int = 2) -> LlamaForCausalLM:
    """A Llama that was shown some sums, ``n_steps`` batches of 64; made once and kept in the folder for such files."""
    key = json.dumps([hidden, layers, n_steps, n_digits, CHARACTERS, TEST_SHARE, 1])
    folder = Path(tempfile.gettempdir()) / "llmgym-benchmarks" / hashlib.sha256(key.encode()).hexdigest()[:12]
    if not (folder / "config.json").exists():
        model = llama(hidden, layers)
        supervise(model.train(), n_steps, n_digits)
        draft = Path(tempfile.mkdtemp(prefix="llmgym-warm-"))
        model.save_pretrained(draft)
        folder.parent.mkdir(exist_ok=True)
        draft.rename(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def supervise(model: LlamaForCausalLM, n_steps: int, n_digits: int) -> None:
    """Cross-entropy of right answers."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    task, rng, encode = SumsTask(n_digits), np.random.default_rng(1), tokenizer().encode
    for step in range(n_steps):
        ids = torch.full((64, 3 * n_digits + 4), PAD)
        labels = torch.full_like(ids, -100)
        for row in range(64):
            problem = task.sample(rng)
            prompt, answer = encode(problem.question), [*encode(problem.reference_answer), END]
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 20)
        model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def held_out_accuracy(model: LlamaForCausalLM, n_digits: int = 2) -> float:
    """How many of all held-out sums are right at temperature 1 on average: no luck in it.

    A response is right if it is the digits of the sum and the end token, so it is with the product of their
    probabilities.
    """
    encode, at = tokenizer().encode, 2 * n_digits + 2
    rows = []
    for first, second in product(range(10**n_digits), repeat=2):
        question = SumsTask.question(first, second, n_digits)
        if SumsTask.is_held_out(question):
            rows.append([*encode(question), *encode(str(first + second)), END])
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    written = torch.arange(ids.shape[1]) < torch.tensor([len(tokens) for tokens in rows])[:, None]
    logprobs = model(input_ids=ids, attention_mask=written.long()).logits.float().log_softmax(-1)
    chosen = logprobs[:, at - 1 : -1].gather(2, ids[:, at:, None])[..., 0]
    return float((chosen * written[:, at:]).sum(1).exp().mean())
