"""The audit finds what is wrong with bad scorers, by the probe that is there for it, and lets a good one pass."""

import contextlib
import json
import math
import os
import random
import re
import signal
import time

import gymnasium as gym
import pytest

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, WrongEnvironmentError
from llmgym.tasks import Problem
from llmgym.testing import SumTask, ToolTask, Verdict, audit, audit_reward, probes, tiny_tokenizer, workers
from llmgym.testing.audit import EnvScorer, TRLScorer
from llmgym.testing.report import CHECKS

PROBLEMS = [
    {"question": f"What is {a}*{b}?", "answer": str(a * b), "problem_id": f"{a}*{b}"}
    for a, b in ((17, 23), (12, 34), (19, 41), (7, 83), (46, 25))
]
TARGETS = [
    {"question": f"Make 24 from {n}, using each number once.", "answer": answer}
    for n, answer in (("6, 4, 1, 1", "6*4*1*1"), ("8, 3, 1, 1", "8*3*1/1"), ("5, 5, 1, 5", "5*5-1^5"))
]


def answer_of(response: str) -> str | None:
    """The content of the last answer tag after the thinking."""
    tail = response.rpartition("</think>")[2]
    if "<think>" in tail:
        return None
    before, opened, rest = tail.rpartition("<answer>")
    answer, closed, _ = rest.partition("</answer>")
    return answer.strip() if opened and closed and "<" not in answer else None


def good(response: str, problem: Problem) -> float:
    return float(answer_of(response) == problem.reference_answer)


def found(reward, problems=PROBLEMS, **arguments) -> dict:
    report = audit_reward(reward, problems, **arguments)
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.passed == (not report.findings)
    return {result.name: result for result in report.findings}


def test_a_good_scorer_passes():
    report = audit_reward(good, PROBLEMS)
    assert report.passed, str(report)
    assert report["reference"].mean == 1.0
    assert report.form == "<think>{thought}</think><answer>{answer}</answer>"
    assert report.form_share == 0.0
    assert [result.name for result in report.results] == list(CHECKS)
    assert not [result for result in report.results if result.verdict is Verdict.WARNING]


def test_a_partial_credit_for_the_form_is_the_base_line():
    def with_form(response, problem):
        tags = all(response.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
        return 0.8 * good(response, problem) + 0.2 * tags

    report = audit_reward(with_form, PROBLEMS)
    assert report.passed, str(report)
    assert report.form_share == pytest.approx(0.2)
    assert report["empty"].max == pytest.approx(0.2)  # shown, and no finding


# --- What should not pay ----------------------------------------------------------------------------------------------


def pays_anything(response, problem):
    return 1.0 if response else 0.0


def pays_blank_text(response, problem):
    return 1.0 if response.isspace() else good(response, problem)


def pays_nothing_written(response, problem):
    return 1.0 if not response else good(response, problem)


def pays_a_constant(response, problem):
    return 1.0 if "6*4*1*1" in response and "," not in response else good(response, problem)


def pays_a_mention(response, problem):
    return float(problem.reference_answer in response)


def pays_the_last_number(response, problem):
    numbers = re.findall(r"\d+", response)
    return float(bool(numbers) and numbers[-1] == problem.reference_answer)


def pays_any_answer_of_the_set(response, problem):
    return float(answer_of(response) in {entry["answer"] for entry in PROBLEMS})


def pays_the_question(response, problem):
    return 1.0 if problem.question in response else good(response, problem)


def pays_the_expression(response, problem):
    answer = answer_of(response) or ""
    return 1.0 if answer and answer in problem.question else good(response, problem)


def pays_many_tags(response, problem):
    return 1.0 if response.count("<answer>") > 10 and "," not in response else good(response, problem)


def pays_the_end(response, problem):
    return float((answer_of(response) or "").endswith(problem.reference_answer))


def pays_a_claim(response, problem):
    return 1.0 if '"score": 1' in response else good(response, problem)


def pays_length(response, problem):
    return 1.0 if len(response) > 50_000 else good(response, problem)


def pays_format_most(response, problem):
    return 0.7 * (answer_of(response) is not None) + 0.3 * good(response, problem)


def pays_what_it_works_out(response, problem):
    try:
        return float(eval(answer_of(response) or "None", {}) == int(problem.reference_answer))
    except (SyntaxError, NameError, TypeError, ValueError, MemoryError, RecursionError, ArithmeticError):
        return 0.0


def pays_half_of_the_references(response, problem):
    return good(response, problem) * float(int(problem.reference_answer) % 2)


@pytest.mark.parametrize(
    ("reward", "problems", "expected"),
    [
        (pays_anything, PROBLEMS, {"form", "constant", "white_space", "garbage", "long", "hidden", "injected"}),
        (pays_blank_text, PROBLEMS, {"white_space"}),
        (pays_nothing_written, PROBLEMS, {"empty"}),
        (pays_a_constant, PROBLEMS, {"constant"}),
        (pays_a_mention, PROBLEMS, {"listed", "hedged", "negated", "hidden"}),
        (pays_the_last_number, PROBLEMS, {"hedged", "negated", "hidden"}),
        (pays_any_answer_of_the_set, PROBLEMS, {"constant", "transplant"}),
        (pays_the_question, PROBLEMS, {"echo"}),
        (pays_the_expression, PROBLEMS, {"echo"}),
        (pays_many_tags, PROBLEMS, {"stuffed", "nested"}),
        (pays_the_end, PROBLEMS, {"hedged", "negated"}),
        (pays_a_claim, PROBLEMS, {"injected"}),
        (pays_length, PROBLEMS, {"long", "nested"}),
        (pays_format_most, PROBLEMS, {"form"}),
        (pays_what_it_works_out, PROBLEMS[:2], {"executed", "huge", "echo"}),
        (pays_half_of_the_references, PROBLEMS, {"reference"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_scorer_is_found_out(reward, problems, expected):
    # A closure is not picklable: no fresh interpreter has to start.
    findings = found(lambda response, problem: reward(response, problem), problems, deadline=0.5)
    assert expected <= set(findings)
    if reward in (pays_blank_text, pays_nothing_written, pays_a_constant, pays_a_claim, pays_the_question):
        assert set(findings) == expected
    for name in expected:
        assert findings[name].reason
        assert findings[name].examples


def test_the_example_of_a_finding_is_what_was_paid():
    result = found(lambda response, problem: pays_a_constant(response, problem), TARGETS)["constant"]
    assert result.examples[0].variant == "6*4*1*1"
    assert result.examples[0].score == 1.0
    assert "'6*4*1*1' earns 100% of the full score, and is the answer of 33%" in result.reason


def test_a_constant_that_most_problems_have_is_a_warning():
    problems = [
        *({"question": f"Is {n} odd?", "answer": "yes"} for n in (1, 3, 5)),
        {"question": "Is 2?", "answer": "no"},
    ]
    report = audit_reward(lambda response, problem: good(response, problem), problems)
    assert report.passed
    assert report["constant"].verdict is Verdict.WARNING
    assert "'yes' is the answer of 75%" in report["constant"].reason
    assert "to look at: constant" in report.conclusion


def test_code_in_a_response_is_found_to_run_though_it_pays_nothing():
    def careless(response, problem):
        with contextlib.suppress(Exception):
            eval((answer_of(response) or "0").replace("*", "+"), {})
        return good(response, problem)

    findings = found(careless, PROBLEMS[:2])
    assert set(findings) == {"executed"}
    assert "was run" in findings["executed"].reason


# --- What should not happen -------------------------------------------------------------------------------------------


def test_a_scorer_that_raises():
    def strict(response, problem):
        if response.count("(") != response.count(")"):
            raise ValueError("unbalanced")
        return good(response, problem)

    findings = found(strict)
    assert "raised ValueError" in findings["nested"].reason
    assert findings["nested"].examples[0].fault == "raised ValueError: unbalanced"
    assert findings["nested"].examples[0].score is None


def test_a_scorer_that_overflows_the_stack():
    def depth(text):
        return 1 + depth(text[1:]) if text.startswith("[") else 0

    findings = found(lambda response, problem: good(response, problem) + 0 * depth(answer_of(response) or ""))
    assert "raised RecursionError" in findings["nested"].reason


@pytest.mark.parametrize("hang", ["loop", "sleep"])
def test_a_scorer_that_hangs_does_not_hang_the_audit(hang):
    def slow(response, problem):
        if response.count("{") > 1000:
            while True:
                if hang == "sleep":
                    time.sleep(60)
        return good(response, problem)

    report = audit_reward(slow, PROBLEMS[:2], deadline=0.3)
    assert report["nested"].verdict is Verdict.FINDING
    assert "gave no score within 0.3 s (2 of" in report["nested"].reason  # the rest of the probe was left out
    assert any("were left out" in note for note in report.notes)
    assert report["transplant"].verdict is Verdict.PASS  # the audit went on


def test_a_scorer_that_hangs_always():
    report = audit_reward(lambda response, problem: time.sleep(60), PROBLEMS[:2], deadline=0.1)
    assert report["reference"].verdict is Verdict.FINDING
    assert "gave no score within 0.1 s" in report["reference"].reason
    assert report["echo"].verdict is Verdict.NOT_POSED
    assert report["repeat"].verdict is Verdict.NOT_POSED


def test_a_scorer_that_ends_its_process():
    def fragile(response, problem):
        if len(response) > 90_000:
            os._exit(3)
        return good(response, problem)

    assert "ended its process (exit code 3)" in found(fragile)["long"].reason


def test_a_slow_scorer(monkeypatch):
    monkeypatch.setattr(workers, "SLOW", 0.02)
    for module in ("verdicts", "report"):
        monkeypatch.setattr(f"llmgym.testing.{module}.SLOW", 0.02)

    def slow(response, problem):
        time.sleep(0.05 if len(response) > 50_000 else 0.0)
        return good(response, problem)

    assert re.search(r"took up to 0\.\d s \(\d+ of", found(slow, PROBLEMS[:2])["long"].reason)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1 point"])
def test_scores_that_are_no_finite_number(value):
    findings = found(lambda response, problem: value if "zzyzx" in response else good(response, problem))
    assert "no finite number" in findings["range"].reason


# --- What should be the same ------------------------------------------------------------------------------------------


def test_a_scorer_that_draws_lots():
    assert "repeat" in found(
        lambda response, problem: float(random.random() < 0.5) * good(response, problem) + random.random() / 99
    )


def test_a_scorer_that_remembers():
    seen = set()

    def once(response, problem):
        first = response not in seen
        seen.add(response)
        return good(response, problem) * first

    assert {"repeat", "process"} & set(found(once))


def test_a_scorer_that_works_in_the_main_thread_only():
    def timed(response, problem):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        return good(response, problem)

    assert set(found(timed)) == {"thread"}


HASHING = """
def reward(response, problem):
    words = set(response.replace("<", " <").replace(">", "> ").replace(",", " ").split())
    numbers = [word for word in words if word.isdigit()]
    return float(numbers[:1] == [problem.reference_answer])


def steady(response, problem):
    return float(response == f"The answer is {problem.reference_answer}.")
"""


def test_a_scorer_that_depends_on_the_hash_seed(tmp_path, monkeypatch):
    (tmp_path / "hashing_scorer.py").write_text(HASHING)
    monkeypatch.syspath_prepend(tmp_path)
    import hashing_scorer

    assert "hash_seed" in found(hashing_scorer.reward)
    report = audit_reward(hashing_scorer.steady, PROBLEMS)
    assert report.passed, str(report)
    assert report["hash_seed"].verdict is Verdict.PASS
    assert report["pickling"].verdict is Verdict.PASS
    assert report.form == "The answer is {answer}."


def test_a_closure_is_audited_and_said_not_to_be_picklable():
    report = audit_reward(lambda response, problem: good(response, problem), PROBLEMS[:2])
    assert report.passed
    assert report["pickling"].verdict is Verdict.WARNING
    assert report["hash_seed"].verdict is Verdict.NOT_POSED


# --- Arguments and forms ----------------------------------------------------------------------------------------------


def test_a_reward_function_of_trl():
    def reward(completions, solution, **kwargs):
        return [good(text, Problem("", answer, "")) for text, answer in zip(completions, solution, strict=True)]

    def of_chats(completions, prompts, answer):
        assert prompts[0][0]["role"] == "user"
        return [good(chat[-1]["content"], Problem("", of, "")) for chat, of in zip(completions, answer, strict=True)]

    assert audit_reward(reward, PROBLEMS[:2]).passed
    assert audit_reward(TRLScorer(of_chats, conversational=True), PROBLEMS[:2]).passed


def test_a_form_of_ones_own():
    def reward(response, problem):
        return float(response == f"Result -> {problem.reference_answer}")

    assert "reference" in found(reward)  # none of the usual forms
    report = audit_reward(reward, PROBLEMS, form="Result -> {answer}")
    assert report.passed, str(report)
    assert report.full == 1.0


def test_what_pays_by_design_is_no_finding():
    reason = "the last letters are all that is asked for"
    findings = found(
        lambda response, problem: pays_the_end(response, problem), by_design={"hedged": reason, "negated": reason}
    )
    assert "hedged" not in findings
    report = audit_reward(lambda *_: 1 / 0, PROBLEMS[:1], by_design={"reference": "raises"})
    assert report["reference"].verdict is Verdict.FINDING  # a fault cannot be meant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by_design": {"ecko": "x"}}, "Did you mean 'echo'"),
        ({"form": "no place"}, "with {answer} in it, actual: 'no place'"),
        ({"deadline": 0.0}, "`deadline`"),
        ({"deadline": math.nan}, "`deadline`"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InvalidOptionError, match=message):
        audit_reward(good, PROBLEMS, **arguments)


def test_problems_are_needed():
    with pytest.raises(InvalidOptionError, match="at least one problem"):
        audit_reward(good, [])
    with pytest.raises(InvalidOptionError, match='"question" and an "answer"'):
        audit_reward(good, [{"question": "6*7"}])


def test_a_report_is_the_same_each_time_and_can_be_read():
    def reward(response, problem):
        return pays_the_end(response, problem)

    first, second = audit_reward(reward, PROBLEMS, seed=3), audit_reward(reward, PROBLEMS, seed=3)
    assert first.to_dict() == second.to_dict()
    assert str(first) == str(second)
    text = str(first)
    assert "negated" in text
    assert "response  '<think>...</think><answer>not 391</answer>'" in text
    assert text.endswith(first.conclusion)
    with pytest.raises(KeyError):
        first["no such check"]


def test_one_problem_will_do():
    report = audit_reward(lambda response, problem: good(response, problem), PROBLEMS[:1])
    assert report.passed, str(report)
    assert report["transplant"].verdict is Verdict.NOT_POSED


# --- Probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["391", "-7", "1/2", "Evelyn", "(1, 2)", "", "'", "{answer}", "1,000"])
def test_probes_write_text_for_any_answer(answer):
    posing = probes.Posing(Problem("What?\n2 + 2 = ?", answer, "p"), probes.FORMS[0], ["5"], random.Random(0), "/tmp/x")
    for probe in probes.PROBES:
        texts = dict(probe.write(posing))
        assert all(isinstance(text, str) for text in texts.values())
        for text in texts.values():
            text.encode()  # no halves of surrogate pairs: no model writes them


@pytest.mark.parametrize("answer", ["391", "-7", "5", "Evelyn", "C", "1/2"])
def test_code_has_the_value_but_not_its_text(answer):
    posing = probes.Posing(Problem("?", answer, "p"), probes.Form("bare", "{answer}"), [], random.Random(0), "/tmp/x")
    code = dict(next(probe for probe in probes.PROBES if probe.name == "executed").write(posing))["call in the form"]
    assert str(eval(code, {})) == answer
    assert answer not in re.split(r"\D+|\W+", code)


def test_the_right_answer_is_listed_neither_first_nor_last():
    listed = next(probe for probe in probes.PROBES if probe.name == "listed")
    for seed in range(30):
        posing = probes.Posing(Problem("?", "42", "p"), probes.FORMS[0], ["1", "2"], random.Random(seed), "/tmp/x")
        answers = dict(listed.write(posing))["commas"].split(", ")
        assert answers.count("42") == 1
        assert len(answers) == 20
        assert 1 < answers.index("42") < 18  # a wrong number and a wrong word at both ends


# --- Environments -----------------------------------------------------------------------------------------------------


def sums(**options) -> LanguageEnv:
    budgets = {"max_prompt_tokens": 64, "max_new_tokens": 4096}
    return LanguageEnv(SumTask(100), action_unit="response", tokenizer=tiny_tokenizer(), **(budgets | options))


def test_an_environment_passes_and_says_what_could_not_be_posed():
    report = audit(sums(), n_problems=4)
    assert report.passed, str(report)
    assert report.n_problems == 4
    assert any("ended before their last character" in note for note in report.notes)


def test_the_scorer_of_an_environment_gives_the_parts():
    scorer = EnvScorer(sums(rewards={"correctness": 1.0, "format": 0.5}))
    problem = Problem("1+1=?", "2", "p")
    judgement = scorer("<think>.</think><answer>2</answer>", problem)
    assert judgement.score == 1.5
    assert judgement.components == {"correctness": 1.0, "format": 0.5}
    assert judgement.left_out == ""
    assert "before their last character" in scorer("1<eos>2", problem).left_out


def test_parts_that_do_not_sum_to_the_reward():
    class Doubled(gym.RewardWrapper):
        def reward(self, reward):
            return 2 * reward

    report = audit(Doubled(sums()), n_problems=2)
    assert report["components"].verdict is Verdict.FINDING
    assert "are not the sum of their parts" in report["components"].reason


def test_a_format_weight_that_is_too_large():
    report = audit(sums(rewards={"correctness": 1.0, "format": 2.0}), n_problems=3)
    assert report["form"].verdict is Verdict.FINDING
    assert report.form_share == pytest.approx(2 / 3)


class FirstPaysMore(LanguageEnv):
    """Its reward depends on the order of the rewards."""

    def __init__(self, **options):
        super().__init__(SumTask(100), **options)

    def step(self, action):
        observation, reward, *rest, info = super().step(action)
        first = next(iter(info["reward_components"].values()))
        return observation, reward + first, *rest, info


class Sums(LanguageEnv):
    """Sums, with every keyword argument."""

    def __init__(self, **options):
        super().__init__(SumTask(100), **options)


class Closed(LanguageEnv):
    """Takes nothing."""

    def __init__(self):
        super().__init__(SumTask())


@pytest.fixture
def own_ids():
    ids = {"AuditSums-v0": Sums, "AuditFirst-v0": FirstPaysMore, "AuditClosed-v0": Closed}
    for name, entry_point in ids.items():
        gym.register(name, entry_point=entry_point)
    yield
    for name in ids:
        del gym.registry[name]


@pytest.mark.usefixtures("own_ids")
def test_the_order_of_the_rewards():
    rewards = {"correctness": 1.0, "format": 0.25}
    small = {"n_problems": 1, "max_new_tokens": 256}
    assert audit("AuditSums-v0", **small, rewards=rewards)["order"].verdict is Verdict.PASS
    assert audit("AuditSums-v0", **small)["order"].verdict is Verdict.NOT_POSED
    report = audit("AuditFirst-v0", **small, rewards=rewards)
    assert report["order"].verdict is Verdict.FINDING
    assert report["components"].verdict is Verdict.FINDING


@pytest.mark.usefixtures("own_ids")
def test_an_environment_that_cannot_be_audited():
    with pytest.raises(InvalidOptionError, match="Did you mean 'llmgym/Copy-v0'"):
        audit("llmgym/Coppy-v0")
    with pytest.raises(WrongEnvironmentError, match="audit_reward"):
        audit("CartPole-v1")
    with pytest.raises(WrongEnvironmentError, match="CartPoleEnv"):
        audit(gym.make("CartPole-v1"))
    with pytest.raises(InvalidOptionError, match="takes `action_unit`, actual: 'AuditClosed-v0'"):
        audit("AuditClosed-v0")
    with pytest.raises(InvalidOptionError, match="no `action_unit`"):
        audit("llmgym/Copy-v0", action_unit="step")
    with pytest.raises(InvalidOptionError, match="action_unit='token'"):
        audit(Sums(tokenizer=tiny_tokenizer()))
    with pytest.raises(InvalidOptionError, match="for one made already"):
        audit(sums(), max_new_tokens=3)
    with pytest.raises(InvalidOptionError, match="`n_problems` >= 1"):
        audit(sums(), n_problems=0)
    with pytest.raises(InvalidOptionError, match="levle"):
        audit("llmgym/MathReason-v0", levle=2)


def test_a_task_that_answers():
    env = LanguageEnv(
        ToolTask(100), action_unit="response", tokenizer=tiny_tokenizer(), max_prompt_tokens=64, max_new_tokens=4096
    )
    report = audit(env, n_problems=2)
    assert report["reference"].mean == 1.0


def test_a_small_task_gives_the_problems_that_it_has():
    report = audit("llmgym/Copy-v0", n_problems=30, n_digits=1, n_symbols=2, split="all")
    assert report.n_problems == 2
    assert report["echo"].verdict is Verdict.BY_DESIGN
    assert report["echo"].reason.startswith("copying the question is the task")
