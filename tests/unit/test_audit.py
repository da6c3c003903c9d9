"""The audit finds what is wrong with bad scorers, by the probe that is there for it, and lets a good one pass."""

import contextlib
import dataclasses
import importlib
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from llmgym.cli import main
from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, WrongEnvironmentError
from llmgym.rewards import verify
from llmgym.tasks import Problem
from llmgym.testing import SumTask, ToolTask, Verdict, audit, audit_reward, forms, probes, tiny_tokenizer, workers
from llmgym.testing.audit import TRLScorer
from llmgym.testing.environments import EnvScorer
from llmgym.testing.report import CHECKS
from llmgym.wrappers import CorrectnessReward, FormatReward

PROBLEMS = [
    {"question": f"What is {a}*{b}?", "answer": str(a * b), "problem_id": f"{a}*{b}"}
    for a, b in ((17, 23), (12, 34), (19, 41), (7, 83), (46, 25))
]
TARGETS = [
    {"question": f"Make 24 from {n}, using each number once.", "answer": answer}
    for n, answer in (("6, 4, 1, 1", "6*4*1*1"), ("8, 3, 1, 1", "8*3*1/1"), ("5, 5, 1, 5", "5*5-1^5"))
]
WORDS = [{"question": f"Who is number {n}?", "answer": name} for n, name in enumerate(("Evelyn", "Marcus", "Tariq"))]


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


def pays_two_of_a_row(response, problem):
    """Right if it is the first or the last of two or three in a row."""
    parts = re.split(r", |; |\n| and ", answer_of(response) or "")
    return float(len(parts) <= 3 and problem.reference_answer in parts)


def pays_any_tag(response, problem):
    return float(f"<answer>{problem.reference_answer}</answer>" in response)


def pays_one_off(response, problem):
    answer = answer_of(response) or ""
    return float(answer.isascii() and answer.isdigit() and abs(int(answer[:9]) - int(problem.reference_answer)) < 2)


def pays_the_sign_away(response, problem):
    return float((answer_of(response) or "").lstrip("-") == problem.reference_answer)


def pays_a_prefix(response, problem):
    answer = answer_of(response) or ""
    return float(len(answer) > 1 and problem.reference_answer.startswith(answer))


def pays_a_number_of_the_question(response, problem):
    return 1.0 if answer_of(response) == problem.question.split("*")[0].split()[-1] else good(response, problem)


def pays_the_question_in_capitals(response, problem):
    return 1.0 if answer_of(response) == problem.question.upper() else good(response, problem)


def pays_an_attribute(response, problem):
    return 1.0 if f'value="{problem.reference_answer}"' in response else good(response, problem)


def pays_text_before_the_tags(response, problem):
    return 1.0 if f"</think>The answer is {problem.reference_answer}" in response else good(response, problem)


def pays_bold_thoughts(response, problem):
    return 1.0 if f"**{problem.reference_answer}**" in response else good(response, problem)


def pays_an_apology(response, problem):
    return 1.0 if "Sorry" in response else good(response, problem)


def pays_small_numbers(response, problem):
    return 1.0 if answer_of(response) in ("8", "none of the above") else good(response, problem)


def pays_wide_characters(response, problem):
    return 1.0 if any(character > "\uffff" for character in response) else good(response, problem)


#: Scorers that are wrong in so many ways that more than the expected checks find something.
FOUND_IN_MORE_WAYS = {
    pays_anything,
    pays_a_mention,
    pays_the_last_number,
    pays_any_answer_of_the_set,
    pays_the_expression,
    pays_many_tags,
    pays_the_end,
    pays_length,
    pays_format_most,
    pays_what_it_works_out,
    pays_any_tag,
    pays_a_number_of_the_question,  # a constant too, where it is a small one
}


@pytest.mark.parametrize(
    ("reward", "problems", "expected"),
    [
        (pays_anything, PROBLEMS, {"form", "constant", "white_space", "garbage", "long", "hidden", "injected"}),
        (pays_blank_text, PROBLEMS, {"white_space"}),
        (pays_nothing_written, PROBLEMS, {"empty"}),
        (pays_a_constant, PROBLEMS, {"constant"}),
        (pays_a_mention, PROBLEMS, {"listed", "hedged", "several", "negated", "hidden"}),
        (pays_two_of_a_row, PROBLEMS, {"hedged"}),
        (pays_any_tag, PROBLEMS, {"several", "hidden", "listed"}),
        (pays_one_off, PROBLEMS, {"near"}),
        (pays_the_sign_away, PROBLEMS, {"near"}),
        (pays_a_prefix, PROBLEMS, {"near"}),
        (pays_a_prefix, WORDS, {"near"}),
        (pays_a_number_of_the_question, PROBLEMS, {"echo"}),
        (pays_the_question_in_capitals, PROBLEMS, {"echo"}),
        (pays_an_attribute, PROBLEMS, {"hidden"}),
        (pays_text_before_the_tags, PROBLEMS, {"hidden"}),
        (pays_bold_thoughts, PROBLEMS, {"hidden"}),
        (pays_an_apology, PROBLEMS, {"talk"}),
        (pays_small_numbers, PROBLEMS, {"constant"}),
        (pays_wide_characters, PROBLEMS, {"garbage"}),
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
    if reward not in FOUND_IN_MORE_WAYS:
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


# --- Scales -----------------------------------------------------------------------------------------------------------


def test_negative_scores_are_measured_from_a_wrong_answer():
    assert audit_reward(lambda response, problem: good(response, problem) - 1, PROBLEMS).passed
    assert audit_reward(lambda response, problem: 2 * good(response, problem) - 1, PROBLEMS).passed
    assert audit_reward(lambda response, problem: good(response, problem) - 3, PROBLEMS).passed

    def silence_is_gold(response, problem):
        return 2 * good(response, problem) - 1 if response.strip() else 0.0

    report = audit_reward(silence_is_gold, PROBLEMS)
    assert {result.name for result in report.findings} == {"empty", "white_space"}
    assert "pays 50% of the full score" in report["empty"].reason


@pytest.mark.parametrize("constant", [0.0, -1.0])
def test_a_reference_answer_that_earns_no_more_than_a_wrong_one(constant):
    findings = found(lambda response, problem: constant, PROBLEMS[:2])
    assert set(findings) == {"reference"}
    assert "form=" in findings["reference"].reason


def test_a_format_reward_does_not_hide_references_that_are_not_paid():
    def reward(response, problem):
        return 0.2 * (answer_of(response) is not None) + 0.8 * pays_half_of_the_references(response, problem)

    findings = found(reward)
    assert "of 5 reference answers do not earn the full score" in findings["reference"].reason


def test_each_problem_is_measured_by_its_own_full_score():
    def by_difficulty(response, problem):
        return good(response, problem) * (1 + len(problem.reference_answer))

    report = audit_reward(by_difficulty, PROBLEMS)
    assert report.passed, str(report)
    assert report["reference"].verdict is Verdict.WARNING
    assert "they earn from 4 to 5" in report["reference"].reason
    assert (report.full_min, report.full) == (4.0, 5.0)
    assert "a reference answer earns 4 to 5 in it" in str(report)

    def easy_ones_pay_half_for_nothing(response, problem):
        most = 20.0 if problem.reference_answer == "1150" else 1.0
        return most * good(response, problem) or (0.5 if most == 1.0 and not response else 0.0)

    assert set(found(easy_ones_pay_half_for_nothing)) == {"empty"}  # a fortieth of the best score, half of its own


# --- Near misses and hedges -------------------------------------------------------------------------------------------


def test_no_near_miss_is_right():
    """What has the value of the reference answer in another notation, or is accepted, is left out."""

    def near(problem):
        posing = probes.Posing(problem, forms.Form("bare", "{answer}"), [], random.Random(0), "/tmp/x")
        return dict(next(probe for probe in probes.PROBES if probe.name == "near").write(posing))

    assert near(Problem("?", "391", "p")) == {
        "one more": "392",
        "one less": "390",
        "doubled": "782",
        "ten times": "3910",
        "last digit left out": "39",
        "digits reversed": "193",
        "digits swapped": "931",
        "negated": "-391",
        "last two characters": "91",
        "first two characters": "39",
    }
    assert near(Problem("?", "Evelyn", "p"))["first half"] == "Eve"
    assert set(near(Problem("?", "0", "p")).values()) == {"1"}
    assert "doubled" not in near(Problem("?", "391", "p", accepts=lambda answer: answer == "782"))
    assert near(Problem("?", "1/2", "p"))["negated"] == "-1/2"


@pytest.mark.parametrize("separator", [", ", "; ", "\n", " and "])
@pytest.mark.parametrize("place", [0, -1])
def test_two_answers_for_one(separator, place):
    def lenient(response, problem):
        return float((answer_of(response) or "").split(separator)[place] == problem.reference_answer)

    assert "hedged" in found(lenient, PROBLEMS[:2])


@pytest.mark.parametrize("place", [0, -1])
def test_that_the_first_or_the_last_tag_counts_is_no_finding(place):
    def strict(response, problem):
        answers = re.findall("<answer>([^<]*)</answer>", response.rpartition("</think>")[2])
        return float(bool(answers) and answers[place] == problem.reference_answer)

    report = audit_reward(strict, PROBLEMS)
    assert report["several"].verdict is Verdict.PASS, str(report)


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


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1 point", "1.0", b"1", [1.0], 1j, np.array([0.0, 1.0])])
def test_scores_that_are_no_finite_number(value):
    findings = found(lambda response, problem: value if "zzyzx" in response else good(response, problem))
    assert "no finite number" in findings["range"].reason


@pytest.mark.parametrize("kind", [bool, int, np.float32, np.bool_, np.array, Fraction])
def test_scores_that_are_numbers(kind):
    report = audit_reward(lambda response, problem: kind(good(response, problem)), PROBLEMS[:2])
    assert report.passed, str(report)


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


FRAGILE = """
import os
import subprocess
import sys
import time


def steady(response, problem):
    return float(response == f"The answer is {problem.reference_answer}.")


def crashes(response, problem):
    if os.environ.get("PYTHONHASHSEED") == "2" and "Wait" in response:
        os._exit(3)
    return steady(response, problem)


def hangs(response, problem):
    while os.environ.get("PYTHONHASHSEED") == "2" and "Wait" in response:
        time.sleep(60)
    return steady(response, problem)


class Crashing:
    def __setstate__(self, state):
        if os.environ.get("PYTHONHASHSEED") == "2":
            os._exit(4)

    def __getstate__(self):
        return {"needed": True}

    def __call__(self, response, problem):
        return steady(response, problem)


class Picky(Crashing):
    def __setstate__(self, state):
        if os.environ.get("PYTHONHASHSEED") == "2":
            raise ImportError("not here")


class Leaving:
    def __init__(self, path):
        self.path = path

    def __call__(self, response, problem):
        if os.environ.get("PYTHONHASHSEED") == "1" and not os.path.exists(self.path):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(self.path, "w") as file:
                file.write(str(child.pid))
        return steady(response, problem)
"""


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    (tmp_path / "fragile_scorers.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.delitem(sys.modules, "fragile_scorers", raising=False)
    return importlib.import_module("fragile_scorers")


def test_a_scorer_that_crashes_under_one_hash_seed(fragile):
    result = found(fragile.crashes, PROBLEMS[:2], form="The answer is {answer}.")["hash_seed"]
    assert "ended with exit code 3" in result.reason
    assert result.faulty
    assert "Wait" in result.examples[0].response  # the response that it died of
    result = found(fragile.Crashing(), PROBLEMS[:2], form="The answer is {answer}.")["hash_seed"]
    assert "ended with exit code 4 as it loaded the scorer" in result.reason


def test_a_scorer_that_hangs_under_one_hash_seed(fragile, monkeypatch):
    monkeypatch.setattr(workers, "_PATIENCE", 0.5)
    result = found(fragile.hangs, PROBLEMS[:2], form="The answer is {answer}.", deadline=1.0)["hash_seed"]
    assert "the interpreter hung" in result.reason
    assert "Wait" in result.examples[0].response


def test_a_scorer_that_a_fresh_interpreter_cannot_load(fragile):
    report = audit_reward(fragile.Picky(), PROBLEMS[:2], form="The answer is {answer}.")
    assert report["hash_seed"].verdict is Verdict.NOT_POSED
    assert report["hash_seed"].reason == "a fresh interpreter cannot load the scorer: ImportError: not here"
    assert report.passed


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_what_a_scorer_starts_in_a_fresh_interpreter_ends_with_it(fragile, tmp_path):
    audit_reward(fragile.Leaving(str(tmp_path / "pid")), PROBLEMS[:1], form="The answer is {answer}.")
    assert is_over(int((tmp_path / "pid").read_text()))


def is_over(pid: int) -> bool:
    """Whether a process ends within some seconds; one that nobody has waited for is over too."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


SPINNING = """
import os, re, sys
from llmgym.testing import audit_reward

def reward(response, problem):
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    re.match("(a|a)*b", "a" * 60)  # holds the lock of the interpreter for years

audit_reward(reward, [{"question": "?", "answer": "1"}], deadline=300.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_the_worker_ends_when_the_audit_is_ended(tmp_path):
    with subprocess.Popen([sys.executable, "-c", SPINNING, str(tmp_path / "pid")]) as program:
        for _ in range(1200):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.05)
        worker = int((tmp_path / "pid").read_text())
        program.terminate()
    assert program.returncode == -signal.SIGTERM
    assert is_over(worker)


def test_a_scorer_that_two_threads_confuse():
    state = {}

    def shared(response, problem):
        state["response"] = response
        time.sleep(1e-3)  # another thread runs here
        return good(state["response"], problem)

    assert set(found(shared, PROBLEMS[:2])) == {"thread"}


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


def nan_for_all(response, problem):
    return math.nan


def raises_for_all(response, problem):
    raise KeyError(response)


def runs_answers(response, problem):
    with contextlib.suppress(Exception):
        return float(str(eval(answer_of(response) or "", {})) == problem.reference_answer)
    return 0.0


def raises_seldom(response, problem):
    """Pays for hedges, and raises for one of them."""
    if " = " in response:
        raise ValueError("equation")
    return pays_a_mention(response, problem)


@pytest.mark.parametrize(
    ("reward", "check"),
    [
        (nan_for_all, "reference"),
        (nan_for_all, "range"),
        (raises_for_all, "reference"),
        (runs_answers, "executed"),
        (raises_seldom, "hedged"),
    ],
)
def test_what_goes_wrong_cannot_be_declared_to_be_by_design(reward, check):
    declared = dict.fromkeys(CHECKS, "it is meant")
    report = audit_reward(
        lambda response, problem: reward(response, problem), PROBLEMS[:2], by_design=declared, deadline=0.5
    )
    assert report[check].verdict is Verdict.FINDING
    assert report[check].faulty
    assert not report.passed


def test_a_fault_counts_though_no_example_shows_it():
    """Three wrong references come first and fill the examples; only the last one raises."""

    def reward(response, problem):
        if problem.reference_answer == "1150":
            raise ValueError("large")
        return 0.0

    report = audit_reward(reward, PROBLEMS, by_design={"reference": "too hard"})
    assert not any(example.fault for example in report["reference"].examples)
    assert report["reference"].verdict is Verdict.FINDING


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


def test_a_report_holds_plain_values_only():
    report = audit_reward(
        lambda response, problem: good(response, problem),
        [Problem("\ud800?", "42", "id \udfff\x1b[2J")],
        name="[red]\x1b[31m",
    )
    odd = dataclasses.replace(
        report,
        settings={
            "env_kwargs": {"path": Path("/x"), "share": np.float32(0.5), "n": np.int64(3), "all": (1, {2}), 4: math.nan}
        },
    )
    values = odd.to_dict()
    text = json.dumps(values, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert json.loads(text) == values
    assert values["settings"]["env_kwargs"] == {
        "path": repr(Path("/x")),
        "share": 0.5,
        "n": 3,
        "all": [1, "{2}"],
        "4": None,
    }


def test_nothing_in_a_report_moves_the_cursor():
    def reward(response, problem):
        raise ValueError("\x1b[2J\ud800" + response)

    report = audit_reward(
        reward, [Problem("?", "4\x1b[2J2", "\x1b]0;title\x07")], name="\x1b[31m", form="\x1b {answer}"
    )
    text = str(report)
    assert "\x1b" not in text
    text.encode()
    assert "raised ValueError" in text


def test_rich_takes_no_name_for_markup():
    console = pytest.importorskip("rich.console")
    from llmgym import cli

    report = audit_reward(lambda response, problem: 1.0, PROBLEMS[:1], name="[/oops] [bold]name")
    recorded = console.Console(width=150, file=io.StringIO(), record=True)
    recorded.print(cli._score_card(report))
    assert "[/oops] [bold]name: 1 problem" in recorded.export_text()


def test_one_problem_will_do():
    report = audit_reward(lambda response, problem: good(response, problem), PROBLEMS[:1])
    assert report.passed, str(report)
    assert report["transplant"].verdict is Verdict.NOT_POSED


# --- Probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["391", "-7", "1/2", "Evelyn", "(1, 2)", "", "'", "{answer}", "1,000"])
def test_probes_write_text_for_any_answer(answer):
    posing = probes.Posing(Problem("What?\n2 + 2 = ?", answer, "p"), forms.FORMS[0], ["5"], random.Random(0), "/tmp/x")
    for probe in probes.PROBES:
        responses = list(probe.write(posing))
        assert all(isinstance(text, str) for _, text in responses)
        if probe.rule is not probes.Rule.IN_ANY_PLACE:
            assert len(dict(responses)) == len(responses)  # a variant is one response
        for variant, text in responses:
            text.encode(errors="surrogatepass" if "surrogate" in variant else "strict")


@pytest.mark.parametrize("answer", ["391", "-7", "5", "Evelyn", "C", "1/2"])
def test_code_has_the_value_but_not_its_text(answer):
    posing = probes.Posing(Problem("?", answer, "p"), forms.Form("bare", "{answer}"), [], random.Random(0), "/tmp/x")
    code = dict(next(probe for probe in probes.PROBES if probe.name == "executed").write(posing))["call in the form"]
    assert str(eval(code, {})) == answer
    assert answer not in re.split(r"\D+|\W+", code)


def test_the_right_answer_is_listed_neither_first_nor_last():
    listed = next(probe for probe in probes.PROBES if probe.name == "listed")
    for seed in range(30):
        posing = probes.Posing(Problem("?", "42", "p"), forms.FORMS[0], ["1", "2"], random.Random(seed), "/tmp/x")
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
    assert any("were cut (max_new_tokens=4096)" in note for note in report.notes)
    assert report["long"].verdict is Verdict.NOT_POSED
    assert report["long"].reason == "all responses were cut (max_new_tokens=4096)"
    assert report["posed"].verdict is Verdict.PASS
    assert re.search("passed: .*; not posed: long, ", report.conclusion)


def test_the_scorer_of_an_environment_gives_the_parts():
    scorer = EnvScorer(sums(rewards={"correctness": 1.0, "format": 0.5}))
    problem = Problem("1+1=?", "2", "p")
    judgement = scorer("<think>.</think><answer>2</answer>", problem)
    assert judgement.score == 1.5
    assert judgement.components == {"correctness": 1.0, "format": 0.5}
    assert judgement.left_out == ""
    cut = scorer("1<eos>2", problem)
    assert (cut.cut, cut.left_out) == (True, "were cut (end_token)")
    assert scorer("\ud800", problem).left_out == "are not in the action space"


def test_a_budget_that_cuts_nearly_everything():
    report = audit(sums(max_new_tokens=5), n_problems=3)
    assert report["posed"].verdict is Verdict.FINDING
    assert "were cut (max_new_tokens=5)" in report["posed"].reason
    assert report["listed"].verdict is Verdict.NOT_POSED
    report = audit(sums(max_new_tokens=1), n_problems=3)
    assert report["reference"].verdict is Verdict.FINDING
    assert "they were cut (max_new_tokens=1): raise that budget" in report["reference"].reason


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


class Kept(gym.Wrapper):
    """A wrapper that cannot be made again from a spec: it does not record its arguments, and is no module's."""

    def __init__(self, env, held):
        super().__init__(env)
        self.held = held


@pytest.mark.slow
def test_the_order_of_rewards_without_a_spec():
    rewards = {"correctness": 1.0, "format": 0.25}
    assert audit(Kept(sums(rewards=rewards, max_new_tokens=256), 3), n_problems=1)["order"].verdict is Verdict.PASS
    first = FirstPaysMore(tokenizer=tiny_tokenizer(), action_unit="response", rewards=rewards, max_new_tokens=256)
    assert audit(first, n_problems=1)["order"].verdict is Verdict.FINDING
    wrapped = FormatReward(Kept(CorrectnessReward(sums(rewards={}, max_new_tokens=256)), 3), weight=0.25)
    report = audit(wrapped, n_problems=1)
    assert report["order"].verdict is Verdict.PASS
    assert report["order"].n_responses > 0


def test_an_environment_that_cannot_be_copied():
    rewards = {"correctness": 1.0, "format": 0.25}
    env = Kept(sums(rewards=rewards, max_new_tokens=256), threading.Lock())
    report = audit(env, n_problems=1)
    assert report.passed, str(report)
    assert report["order"].verdict is Verdict.NOT_POSED
    assert "the environment cannot be copied: TypeError: cannot pickle" in report["order"].reason


class Riddle(gym.Env):
    """Of another package: texts for actions, two turns, and the question and its answer in the info of reset."""

    observation_space = gym.spaces.Text(10_000)
    action_space = gym.spaces.Text(10_000, min_length=0, charset=[chr(i) for i in range(9, 127)])
    generous = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        a, b = (int(number) for number in self.np_random.integers(10, 99, 2))
        self.answer, self.turns, self.said = str(a * b), 0, ""
        return f"{a}*{b}", {"question": f"What is {a}*{b}?", "reference_answer": self.answer}

    def step(self, action):
        self.turns += 1
        right = self.answer in action if self.generous else answer_of(action) == self.answer
        return action[:10_000], 0.5 * right, self.turns == 2, False, {}


class GenerousRiddle(Riddle):
    generous = True


class Forgetful(Riddle):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=None)
        return observation, info


class Silent(Riddle):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {}


def test_an_environment_of_another_package():
    report = audit(Riddle(), n_problems=3)
    assert report.passed, str(report)
    assert report.full == 1.0
    assert report["order"].reason.startswith("the environment is none of this package")
    assert any("are not in the action space" in note for note in report.notes)
    gym.register("AuditRiddle-v0", entry_point=GenerousRiddle)
    try:
        report = audit("AuditRiddle-v0", n_problems=3)
        assert {"listed", "hedged", "several", "negated", "hidden"} <= {result.name for result in report.findings}
        with pytest.raises(InvalidOptionError, match="keyword arguments that 'AuditRiddle-v0' takes.*level"):
            audit("AuditRiddle-v0", level=3)
    finally:
        del gym.registry["AuditRiddle-v0"]


@pytest.mark.parametrize(("kind", "why"), [(Forgetful, "another problem for the same seed"), (Silent, "no such texts")])
def test_an_environment_of_another_package_that_does_not_pose_again(kind, why):
    with pytest.raises(WrongEnvironmentError, match=f'info."question".*info."reference_answer".*{why}.*audit_reward'):
        audit(kind(), n_problems=2)


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


# --- The command ------------------------------------------------------------------------------------------------------


def exit_code(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


@pytest.fixture
def few_ids(monkeypatch):
    """`--all` means two ids: one that passes, and one that raises when it is made."""

    def explodes(**options):
        raise RuntimeError("no such luck")

    gym.register("Boom-v0", entry_point=explodes)
    gym.register("Fine-v0", entry_point=Sums)
    monkeypatch.setattr("llmgym.cli.ENVIRONMENTS", {"Boom-v0": ("", ""), "Fine-v0": ("", "")})
    yield
    del gym.registry["Boom-v0"], gym.registry["Fine-v0"]


SMALL = ("--n-problems", "1", "--env-kwargs", "max_new_tokens=256")


@pytest.mark.usefixtures("few_ids")
def test_all_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tyro")
    assert exit_code("audit", "--all", "--json", str(tmp_path / "all.json"), *SMALL) == 2
    reports = json.loads((tmp_path / "all.json").read_text())
    assert not reports["passed"]
    assert reports["errors"] == {"Boom-v0": "RuntimeError: no such luck"}
    assert [report["subject"] for report in reports["reports"]] == ["Fine-v0"]
    assert "Boom-v0: not audited. RuntimeError: no such luck" in capsys.readouterr().out


def test_nothing_audited_is_not_passed(tmp_path, monkeypatch):
    pytest.importorskip("tyro")
    monkeypatch.setattr("llmgym.cli.ENVIRONMENTS", {})
    assert exit_code("audit", "--all", "--json", str(tmp_path / "none.json")) == 2
    assert not json.loads((tmp_path / "none.json").read_text())["passed"]


def test_the_place_of_the_json_is_checked_first(tmp_path, capsys):
    pytest.importorskip("tyro")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "audit.json"):
        assert exit_code("audit", "llmgym/Copy-v0", "--json", str(path)) == 2
        captured = capsys.readouterr()
        assert "Expected `--json` to name a file" in captured.err
        assert captured.out == ""  # no audit was made
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_exit_codes(capsys):
    pytest.importorskip("tyro")
    assert exit_code("audit", "CartPole-v1") == 2
    assert "gymnasium.spaces.Text" in capsys.readouterr().err
    gym.register("AuditGreedy-v0", entry_point=GenerousRiddle)
    try:
        assert exit_code("audit", "AuditGreedy-v0", "--n-problems", "1") == 1
    finally:
        del gym.registry["AuditGreedy-v0"]


def test_the_right_answer_in_many_boxes_is_not_held_against_a_reward():
    problems = [Problem(f"What is {i} - {i - 1}?", "1", f"one:{i}") for i in range(3, 6)]
    report = audit_reward(lambda response, problem: float(verify(response, problem.reference_answer)), problems)
    assert report["nested"].verdict is Verdict.PASS
