"""Format, length, language, correctness, and the stack."""

from __future__ import annotations

import pickle
from functools import partial

import pytest

from llmgym.errors import InvalidOptionError
from llmgym.rewards import (
    REWARDS,
    CorrectnessReward,
    FormatReward,
    LanguageReward,
    LengthReward,
    RewardStack,
    make_reward,
)
from llmgym.rewards.arithmetic import evaluate
from llmgym.rewards.format import soft_format, strict_format
from llmgym.rewards.language import dominant_language, language_share
from llmgym.rewards.length import length_score
from llmgym.tasks import Problem
from llmgym.transcript import Author, Transcript, Transition

GOOD = "<think>6*7 = 42</think><answer>42</answer>"


def episode(response: str, *, prompt: str = "6*7?\n", n_new_tokens: int = 10, **problem: object) -> Transcript:
    fields: dict[str, object] = {"question": "6*7?", "reference_answer": "42", "problem_id": "p"} | problem
    return Transcript(Problem(**fields), prompt, ((Author.AGENT, response),), n_new_tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("response", "strict", "soft"),
    [
        (GOOD, 1.0, 1.0),
        (f"\n {GOOD}\n", 1.0, 1.0),
        ("<think></think>\n<answer>42</answer>", 1.0, 1.0),
        ("<think>a</think><answer> </answer>", 0.0, 1.0),
        (f"So: {GOOD}", 0.0, 1.0),
        (f"{GOOD} done", 0.0, 1.0),
        ("<think>a</think> hm <answer>42</answer>", 0.0, 1.0),
        ("<think>a</think><answer>42", 0.0, 0.75),
        ("a</think><answer>42</answer>", 0.0, 0.75),
        ("<answer>42</answer>", 0.0, 0.5),
        ("<answer>42</answer><think>a</think>", 0.0, 0.5),
        (GOOD + GOOD, 0.0, 0.0),
        ("<think><think>a</think><answer>42</answer>", 0.0, 0.75),
        ("42", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_format(response: str, strict: float, soft: float) -> None:
    assert strict_format(response) == strict
    assert soft_format(response) == soft
    assert FormatReward().score(episode(response)) == strict
    assert FormatReward("soft").score(episode(response)) == soft


def test_format_can_ask_for_thinking() -> None:
    assert FormatReward(require_thinking=True).score(episode(GOOD)) == 1.0
    assert FormatReward(require_thinking=True).score(episode("<think>\n</think><answer>42</answer>")) == 0.0


def test_a_think_tag_that_ends_the_prompt_counts() -> None:
    response = GOOD.removeprefix("<think>")
    assert FormatReward().score(episode(response)) == 0.0
    assert FormatReward().score(episode(response, prompt="6*7? <think>\n")) == 1.0
    assert CorrectnessReward().score(episode("6*7 = 42", prompt="6*7? <think>\n")) == 0.0


def test_format_names_its_problems() -> None:
    assert FormatReward().details(episode("So: <answer>42</answer>")) == {"problems": ("missing_think", "text_before")}
    assert FormatReward(require_thinking=True).details(episode("<think></think><answer>42</answer>")) == {
        "problems": ("empty_think",)
    }
    assert LengthReward().details(episode(GOOD)) == {}


@pytest.mark.parametrize(
    ("response", "score", "details"),
    [
        (GOOD, 1.0, ("correct", "same_text", "answer_tag")),
        ("\\boxed{41}", 0.0, ("incorrect", "different_value", "boxed")),
        ("", 0.0, ("incorrect", "no_answer", "")),
        (f"<answer>{'1+' * 4000}1</answer>", 0.0, ("unverifiable", "too_long", "answer_tag")),
    ],
)
def test_correctness_says_why(response: str, score: float, details: tuple[str, str, str]) -> None:
    judgement = CorrectnessReward().judge(episode(response))
    assert judgement.score == score
    assert judgement.details == dict(zip(("verdict", "reason", "rule"), details, strict=True))


def accepts_even(answer: str) -> bool:
    return answer.endswith(("0", "2", "4", "6", "8"))


def test_a_problem_may_decide_by_itself() -> None:
    accepted = CorrectnessReward().judge(episode("The answer is 44.", accepts=accepts_even))
    assert accepted == (1.0, {"verdict": "correct", "reason": "accepted", "rule": "phrase"})
    refused = CorrectnessReward().judge(episode("The answer is 43.", accepts=accepts_even))
    assert refused == (0.0, {"verdict": "incorrect", "reason": "not_accepted", "rule": "phrase"})
    none = CorrectnessReward(rules=["boxed"]).judge(episode("The answer is 44.", accepts=accepts_even))
    assert none == (0.0, {"verdict": "incorrect", "reason": "no_answer", "rule": ""})


def test_correctness_can_be_lenient_and_demanding() -> None:
    assert CorrectnessReward().score(episode("6*7")) == 0.0
    assert CorrectnessReward(allow_unevaluated=True).score(episode("6*7")) == 1.0
    assert CorrectnessReward(rel_tol=0.05).score(episode("41.9")) == 1.0
    assert CorrectnessReward(rules=["answer_tag"]).score(episode("42")) == 0.0
    reward, _ = make_reward("correctness", {"rules": ["boxed"], "convert_units": True})
    assert reward.score(episode("\\boxed{42}")) == 1.0


def test_length_score_is_one_plus_the_overlong_punishment() -> None:
    longest, cushion = 128, 32  # L_max and L_cache of the source
    for n_tokens in range(200):
        if n_tokens <= longest - cushion:
            punishment = 0.0
        elif n_tokens <= longest:
            punishment = ((longest - cushion) - n_tokens) / cushion
        else:
            punishment = -1.0
        assert length_score(n_tokens, target_tokens=96, tolerance=32) == pytest.approx(1.0 + punishment, abs=1e-12)
    assert [length_score(n, target_tokens=5, tolerance=0) for n in (5, 6)] == [1.0, 0.0]
    assert LengthReward(target_tokens=8, tolerance=4).score(episode("", n_new_tokens=10)) == 0.5


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("We add them.", "en", 1.0),
        ("速度乘以时间。", "en", 0.0),
        ("速度乘以时间：60×3=180 km，x=5", "zh", 1.0),
        ("We add 三个", "en", 5 / 7),
        ("<think>三个</think>", "zh", 1.0),
        ("\\frac{1}{2} 三个 $x_{max}=abc$", "zh", 1.0),
        ("It costs $5 and then $6", "zh", 0.0),
        ("たすと5です", "ja", 1.0),
        ("더하면 5입니다", "ko", 1.0),
        ("Сложим и получим", "ru", 1.0),
        ("Сложим", "en", 0.0),
        ("12 + 3 = 15", "zh", 1.0),
        ("", "en", 1.0),
    ],
)
def test_language_share(text: str, language: str, share: float) -> None:
    assert language_share(text, language) == pytest.approx(share)


def test_language_follows_the_problem() -> None:
    chinese = episode("答案是四十二", language="zh")
    assert LanguageReward().score(chinese) == 1.0
    assert LanguageReward("en").score(chinese) == 0.0
    unknown = episode("ответ", language="xx", question="Сколько будет 6*7?")
    assert LanguageReward().score(unknown) == 1.0
    assert dominant_language("") == "en"


def is_target(answer: str, target: int) -> bool:
    return evaluate(answer) == target


def test_correctness() -> None:
    assert CorrectnessReward().score(episode(GOOD)) == 1.0
    assert CorrectnessReward().score(episode("6*7")) == 0.0
    assert CorrectnessReward(allow_unevaluated=True).score(episode("6*7")) == 1.0


def test_correctness_asks_a_problem_that_decides_for_itself() -> None:
    accepts = partial(is_target, target=13)
    assert CorrectnessReward().score(episode("<answer>3*5-2</answer>", accepts=accepts)) == 1.0
    assert CorrectnessReward().score(episode("<answer>3*5-3</answer>", accepts=accepts)) == 0.0
    assert CorrectnessReward().score(episode("<think>3*5-2", accepts=accepts)) == 0.0


def test_the_environments_text_is_not_the_agents() -> None:
    problem = Problem("6*7?", "42", "p")
    transcript = Transcript(problem, "6*7?", ((Author.AGENT, "41\n"), (Author.ENVIRONMENT, "<answer>42</answer>")), 3)
    assert CorrectnessReward().score(transcript) == 0.0


def test_stack_pays_at_the_end_and_steps_as_they_close() -> None:
    stack = RewardStack({"correctness": 1, "process": 0.5, "format": {"weight": 0.1, "mode": "soft"}})
    assert stack.names == ("correctness", "process", "format")
    assert stack.per_step
    running = Transition(episode("<think>6*7=42\n"), first_step=0, last_step=1, ended=False)
    assert stack.pay(running) == ({"correctness": 0.0, "process": 0.5, "format": 0.0}, {})
    over = Transition(episode("<think>6*7=42\n</think><answer>42</answer>"), first_step=1, last_step=2, ended=True)
    components, details = stack.pay(over)
    assert components == {"correctness": 1.0, "process": 0.0, "format": 0.1}
    assert details == {
        "correctness": {"verdict": "correct", "reason": "same_text", "rule": "answer_tag"},
        "format": {"problems": ()},
    }
    assert stack.pay_batch([running, over]) == [stack.pay(running), stack.pay(over)]
    nothing = Transition(episode("<think>6*"), first_step=0, last_step=0, ended=False)
    assert set(stack.pay(nothing)[0].values()) == {0.0}
    assert not RewardStack({"correctness": 1.0}).per_step
    assert RewardStack({}).pay(over) == ({}, {})


def test_a_negative_weight_does_not_make_a_negative_zero() -> None:
    components, _ = RewardStack({"length": -1.0}).pay(Transition(episode("", n_new_tokens=500), 0, 0, True))
    assert str(components["length"]) == "0.0"


@pytest.mark.parametrize("name", ["correctness", "format", "process", "length", "language"])
def test_every_reward_can_be_made_and_pickled(name: str) -> None:
    assert name in REWARDS
    reward, weight = make_reward(name, {})
    assert (reward.name, weight) == (name, 1.0)
    again = pickle.loads(pickle.dumps(reward))
    assert again.score(episode(GOOD)) == reward.score(episode(GOOD))


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"formt": 1.0}, "Expected a reward among: .*correctness.*; actual: 'formt'. Did you mean 'format'"),
        ({"format": {"mod": "soft"}}, "Expected an argument of reward 'format' among: mode.*actual: 'mod'"),
        ({"format": {"mode": "loose"}}, "Expected `mode` to be one of .*strict.*actual: 'loose'"),
        ({"format": {"mode": "soft", "require_thinking": True}}, "Expected `require_thinking` with mode 'strict' only"),
        ({"format": float("nan")}, "Expected the weight of reward 'format' to be a finite number, actual: nan"),
        ({"format": True}, "finite number, actual: True"),
        ({"format": "1"}, "finite number, actual: '1'"),
        ({"correctness": {"rules": ["boxd"]}}, "Expected a rule of extraction among: .*Did you mean 'boxed'"),
        ({"correctness": {"abs_tol": -1}}, "Expected `abs_tol` to be a finite number >= 0"),
        ({"length": {"target_tokens": -1}}, "Expected `target_tokens` to be a whole number >= 0, actual: -1"),
        ({"language": {"language": "tlh"}}, "Expected `language` to be None or one of .*actual: 'tlh'"),
        (["format"], "Expected `rewards` to be a mapping"),
    ],
)
def test_bad_stacks(rewards: object, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        RewardStack(rewards)  # type: ignore[arg-type]
