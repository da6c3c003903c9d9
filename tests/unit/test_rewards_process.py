"""Process rewards: which steps count, when they are paid, and the two scorers."""

from __future__ import annotations

import builtins
import copy
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmgym.errors import InvalidOptionError, MissingExtraError
from llmgym.rewards.hf import HFStepScorer
from llmgym.rewards.process import ArithmeticStepScorer, ProcessReward, reasoning_before_answer
from llmgym.tasks import Problem
from llmgym.transcript import Author, Transcript, Transition

RESPONSE = "<think>60*3=180\nso\n180+20=210\n\n210/2=105</think><answer>1+1=2\n105</answer>"


def episode(response: str, delimiter: str = "\n") -> Transcript:
    return Transcript(Problem("q", "105", "p"), "q\n", ((Author.AGENT, response),), 1, step_delimiter=delimiter)


def length_of_steps(question: str, steps: Sequence[str]) -> list[float]:
    return [min(1.0, len(step) / 10) for step in steps]


def test_steps_end_where_the_answer_begins() -> None:
    assert reasoning_before_answer(RESPONSE, "\n") == ("60*3=180\n", "so\n", "180+20=210\n", "\n", "210/2=105")
    assert reasoning_before_answer("1+1=2\n3", "\n") == ("1+1=2\n", "3")
    assert reasoning_before_answer("<answer>1+1=2", "\n") == ("",)
    assert reasoning_before_answer("", "\n") == ()


@pytest.mark.parametrize(
    ("aggregate", "neutral", "score"),
    [("sum", 0.0, 2.0), ("sum", 0.5, 2.5), ("mean", 0.0, 0.5), ("mean", 1.0, 0.75), ("min", 1.0, 0.0)],
)
def test_aggregates(aggregate: Any, neutral: float, score: float) -> None:
    reward = ProcessReward(aggregate=aggregate, scorer_args={"neutral": neutral})
    assert reward.score(episode(RESPONSE)) == score
    assert reward.score(episode("")) == reward.score(episode("\n\n")) == 0.0


def test_sum_pays_each_step_as_it_closes_and_the_same_in_all() -> None:
    reward = ProcessReward()
    assert reward.per_step
    paid = []
    closed = 0
    for end in range(1, len(RESPONSE) + 1):
        transcript = episode(RESPONSE[:end])
        ended = end == len(RESPONSE)
        n_steps = len(transcript.reasoning_steps) if ended else RESPONSE[:end].count("\n")
        paid.append(reward.due(Transition(transcript, closed, n_steps, ended)))
        closed = n_steps
    assert [(RESPONSE[:end].count("\n"), amount) for end, amount in enumerate(paid, 1) if amount] == [
        (1, 1.0),
        (5, 1.0),
    ]
    assert math.fsum(paid) == reward.score(episode(RESPONSE)) == 2.0


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_mean_and_min_are_paid_at_the_end(aggregate: Any) -> None:
    reward = ProcessReward(aggregate=aggregate)
    assert not reward.per_step
    assert reward.due(Transition(episode("1+1=2\n"), 0, 1, False)) == 0.0
    assert reward.due(Transition(episode("1+1=2\n"), 1, 1, True)) == 1.0


def test_a_repeated_line_is_paid_once() -> None:
    assert ArithmeticStepScorer().score_steps("", ["1+1=2", "1 + 1 = 2", "2+1=3"]) == [1.0, 0.0, 1.0]


def test_other_scorers_and_delimiters() -> None:
    reward = ProcessReward(length_of_steps, aggregate="mean")
    assert reward.score(episode("abcde. abcdefghij. ", delimiter=". ")) == pytest.approx((0.6 + 1.0) / 2)
    assert pickle.loads(pickle.dumps(reward)).score(episode("abcde")) == 0.5


@pytest.mark.parametrize("scores", [[], [0.5, 0.5], [1.5], [-0.1], [float("nan")]])
def test_a_scorer_out_of_line_is_an_error(scores: list[float]) -> None:
    with pytest.raises(InvalidOptionError, match="to give 1 scores in \\[0, 1\\], one per step, actual"):
        ProcessReward(lambda question, steps: scores).score(episode("a"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scorer": "arithmetics"}, "Expected `scorer` to be 'arithmetic', 'hf:<model>'.*actual: 'arithmetics'"),
        ({"scorer": "hf:"}, "actual: 'hf:'"),
        ({"scorer": 3}, "actual: 3"),
        ({"aggregate": "max"}, "Expected `aggregate` to be one of .*actual: 'max'"),
        ({"scorer_args": {"neutral": 2.0}}, "Expected `neutral` to be a number in \\[0, 1\\], actual: 2.0"),
        ({"scorer_args": {"nutral": 1.0}}, "Expected `scorer_args` to be arguments of the scorer 'arithmetic'"),
        ({"scorer": length_of_steps, "scorer_args": {"a": 1}}, "with a scorer named by a string only"),
        ({"scorer": "hf:x", "scorer_args": {"step_separator": ""}}, "Expected `step_separator`"),
        ({"scorer": "hf:x", "scorer_args": {"batch_size": 0}}, "Expected `batch_size` >= 1, actual: 0"),
        ({"scorer": "hf:x", "scorer_args": {"question_format": "q"}}, "Expected `question_format` to hold"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        ProcessReward(**arguments)


# --- Hugging Face models ----------------------------------------------------------------------------------------------

QUESTION = "how many"
STEPS = ["one and two", "so three", "three and three"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer model over a handful of words, saved as any model is."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "\n", "<step>", "how", "many", "one", "two", "three", "and", "so", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex("\n"), "isolated")]
    )
    tokenizer.add_special_tokens(["<pad>", "<s>", "<step>"])
    folder = tmp_path_factory.mktemp("prm")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, num_labels=2, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    model = transformers.LlamaForTokenClassification(config)
    with torch.no_grad():
        model.score.weight.mul_(30.0)  # spread the probabilities, so that a wrong position shows
    model.save_pretrained(folder)
    return folder


def expected_scores(folder: Path, separator: list[int]) -> list[float]:
    """The same probabilities with nothing but the model: each prefix by itself, read at its last token."""
    import torch
    from transformers import LlamaForTokenClassification

    words = {"how": 4, "many": 5, "one": 6, "two": 7, "three": 8, "and": 9, "so": 10}
    model = LlamaForTokenClassification.from_pretrained(folder).eval()
    ids = [1, *(words[word] for word in QUESTION.split()), 2]
    scores = []
    for step in STEPS:
        ids = ids + [words[word] for word in step.split()] + separator
        with torch.no_grad():
            good, bad = (model(input_ids=torch.tensor([ids])).logits[0, -1, label].item() for label in (1, 0))
        scores.append(1.0 / (1.0 + math.exp(bad - good)))
    return scores


@pytest.mark.parametrize(("separator", "ids"), [("\n", [2]), ("<step>", [3]), ("\n<step>", [2, 3])])
def test_hf_scores_are_the_models_probabilities(model_folder: Path, separator: str, ids: list[int]) -> None:
    scorer = HFStepScorer(model_folder, step_separator=separator, device="cpu")
    scores = scorer.score_steps(QUESTION, STEPS)
    assert scores == pytest.approx(expected_scores(model_folder, ids), abs=1e-5)
    assert max(scores) - min(scores) > 0.01
    flipped = HFStepScorer(model_folder, step_separator=separator, positive_label=0, device="cpu")
    assert flipped.score_steps(QUESTION, STEPS) == pytest.approx([1 - score for score in scores], abs=1e-5)


def test_hf_batches_and_padding_change_nothing(model_folder: Path) -> None:
    requests = [(QUESTION, STEPS[:n]) for n in (3, 1, 2, 3, 1)]
    alone = [HFStepScorer(model_folder, batch_size=1, device="cpu").score_batch([request])[0] for request in requests]
    for batch_size in (2, 16):
        together = HFStepScorer(model_folder, batch_size=batch_size, device="cpu").score_batch(requests)
        for scores, expected in zip(together, alone, strict=True):
            assert scores == pytest.approx(expected, abs=1e-6)


def test_hf_models_that_see_what_comes_after(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, num_labels=1, hidden_dropout_prob=0.0, initializer_range=1.0,
    )  # fmt: skip
    model = BertForTokenClassification(config).eval()
    shutil.copytree(model_folder, tmp_path / "bert")
    model.save_pretrained(tmp_path / "bert")
    scorer = HFStepScorer(tmp_path / "bert", causal=False, device="cpu")
    scores = scorer.score_batch([(QUESTION, STEPS), (QUESTION, STEPS[:1])])
    with torch.no_grad():
        logit = model(input_ids=torch.tensor([[1, 4, 5, 2, 6, 9, 7, 2]])).logits[0, -1, 0].item()
    first = 1.0 / (1.0 + math.exp(-logit))  # one output: a sigmoid
    assert scores[0][0] == pytest.approx(first, abs=1e-5)
    assert scores[1] == [pytest.approx(first, abs=1e-5)]
    assert scores[0][:2] == pytest.approx(scorer.score_steps(QUESTION, STEPS[:2]), abs=1e-6)


def test_hf_as_a_plain_value(model_folder: Path) -> None:
    reward = ProcessReward(f"hf:{model_folder}", aggregate="min", scorer_args={"device": "cpu"})
    transcript = Transcript(Problem(QUESTION, "3", "p"), "", ((Author.AGENT, "\n".join(STEPS)),), 1)
    assert reward.score(transcript) == pytest.approx(min(expected_scores(model_folder, [2])), abs=1e-5)
    for again in (copy.deepcopy(reward), pickle.loads(pickle.dumps(reward))):
        assert again.scorer._loaded is None  # a copy does not carry the weights
        assert again.score(transcript) == reward.score(transcript)


def test_hf_pays_each_step_once(model_folder: Path) -> None:
    reward = ProcessReward(f"hf:{model_folder}", scorer_args={"device": "cpu"})
    transcript = Transcript(Problem(QUESTION, "3", "p"), "", ((Author.AGENT, "\n".join(STEPS)),), 1)
    expected = expected_scores(model_folder, [2])
    assert reward.due(Transition(transcript, 1, 2, False)) == pytest.approx(expected[1], abs=1e-5)
    batch = [
        Transition(transcript, 0, 1, False),
        Transition(transcript, 1, 1, False),
        Transition(transcript, 1, 3, True),
    ]
    assert reward.due_batch(batch) == pytest.approx([expected[0], 0.0, expected[1] + expected[2]], abs=1e-5)


def test_hf_bounds(model_folder: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"Expected at most 64 tokens of question and steps.*actual: 1"):
        HFStepScorer(model_folder, device="cpu").score_steps(QUESTION, ["one " * 100])
    with pytest.raises(InvalidOptionError, match="Expected `positive_label` below the model's 2 labels, actual: 2"):
        HFStepScorer(model_folder, positive_label=2).score_steps(QUESTION, STEPS)
    with pytest.raises(InvalidOptionError, match=r"to be at least one token of .*actual: ' ' gives none"):
        HFStepScorer(model_folder, step_separator=" ", device="cpu").score_steps(QUESTION, STEPS)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_torch(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "torch":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    scorer = HFStepScorer("anything")  # making one needs nothing
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(MissingExtraError, match=r'`torch`.*pip install "llmgym-rl\[agents\]"'):
        scorer.score_steps("q", ["a"])
