"""MathReason: problems that are right, splits that cannot overlap, data sets of real size."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import llmgym
from llmgym.envs.math_reason import (
    FAMILIES,
    LEVELS,
    Draft,
    MathTask,
    demonstrations,
    format_response,
    makes_target,
    split_of,
)
from llmgym.errors import InvalidOptionError
from llmgym.rewards import make_reward
from llmgym.transcript import Author, StopReason, Transcript

EVERY_KIND = [(family, level, language) for family in FAMILIES for level in LEVELS for language in ("en", "zh")]


def draw(n: int, seed: int = 0, **choices) -> list:
    rng, task = np.random.default_rng(seed), MathTask(**choices)
    return [task.sample(rng) for _ in range(n)]


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize(("family", "level", "language"), EVERY_KIND)
def test_gold_responses_earn_every_reward(family, level, language):
    for problem in draw(20, families=[family], level=level, language=language):
        response = format_response(problem.gold_reasoning.splitlines(), problem.reference_answer)
        transcript = Transcript(
            problem, problem.question, ((Author.AGENT, response),), 1, stop_reason=StopReason.END_TOKEN
        )
        assert make_reward("correctness", 1.0)[0].score(transcript) == 1.0, problem
        assert make_reward("format", {"mode": "strict"})[0].score(transcript) == 1.0
        assert make_reward("process", 1.0)[0].score(transcript) >= 1.0, "at least one line can be checked"
        # A line said twice is neutral to the scorer; no line may be wrong.
        worst, _ = make_reward("process", {"aggregate": "min", "scorer_args": {"neutral": 1.0}})
        assert worst.score(transcript) == 1.0, problem


def test_arithmetic_and_expressions_are_what_python_says():
    for problem in draw(400, families=["arithmetic", "expression"], level=LEVELS, language="en"):
        expression = re.search(r"[\d(][\d+\-*/()]*", problem.question).group()
        assert eval(expression) == int(problem.reference_answer), problem  # our own text, not a model's


def test_equations_hold_for_their_solution():
    for problem in draw(400, families=["equation"], level=LEVELS, language="en"):
        left, right = re.search(r"([\dx+\-()]+)=([\dx+\-()]+)", problem.question).groups()
        x = int(problem.reference_answer)
        values = [eval(re.sub(r"(?<=\d)(?=[x(])", "*", side), {"x": x}) for side in (left, right)]
        assert values[0] == values[1], problem


def test_a_word_problem_agrees_with_its_shortcut():
    """The shortcut is computed from the numbers of the story, the answer from step after step."""
    rng, task = np.random.default_rng(0), MathTask(families=["word"], level=LEVELS)
    for _ in range(400):
        problem, shortcut = task.sample_with_shortcut(rng)
        expression, answer = shortcut.split("=")
        assert eval(expression) == int(answer) == int(problem.reference_answer), problem


@pytest.mark.parametrize("family", FAMILIES)
def test_problems_and_states_are_values(family):
    """Drawn twice, or carried by pickle: equal, checks of the answer included."""
    first, second = (draw(5, families=[family], level=LEVELS) for _ in range(2))
    assert first == second == pickle.loads(pickle.dumps(first))
    assert [hash(problem) for problem in first] == [hash(problem) for problem in second]
    states = []
    for _ in range(2):
        env = gym.make("llmgym/MathReason-v0", families=[family])
        env.reset(seed=0)
        states.append(env.unwrapped.clone_state())
    assert states[0] == states[1] == pickle.loads(pickle.dumps(states[0]))


def test_a_target_is_made_from_the_numbers_of_the_question():
    for problem in draw(300, families=["target"], level=LEVELS, language="zh"):
        *numbers, target = numbers_in(problem.question)
        assert sorted(numbers_in(problem.reference_answer)) == sorted(numbers)
        assert eval(problem.reference_answer) == target
        assert problem.accepts(problem.reference_answer)
        assert not problem.accepts(str(target)), "the target itself does not use the numbers"
        assert not problem.accepts(problem.reference_answer + "+0")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("3*5-2", True),
        ("(3*5)-2", True),
        ("5*3-2", True),
        ("13", False),
        ("3*5-2+0", False),
        ("2+5+3", False),
        ("", False),
    ],
)
def test_makes_target(answer, right):
    assert makes_target(answer, numbers=(2, 3, 5), target=13) is right


def asked(problem) -> tuple:
    """What a problem asks, whatever its language, wording and order of operands."""
    if problem.family == "expression":
        return problem.family, re.search(r"[\d(][\d+\-*/()]*", problem.question).group()
    if problem.family == "equation":
        return problem.family, re.search(r"[\dx+\-()]+=[\dx+\-()]+", problem.question).group()
    numbers = numbers_in(problem.question)
    if problem.family == "target":  # English names the target first, Chinese last
        target = numbers.pop(0 if problem.language == "en" else -1)
        return problem.family, target, tuple(sorted(numbers))
    return problem.family, "".join(re.findall(r"[+*/-]", problem.question)), tuple(sorted(numbers))


def test_splits_share_no_problem_in_any_language():
    train = {asked(p) for p in draw(4000, seed=1, level=LEVELS, split="train") if p.family != "word"}
    test = {asked(p) for p in draw(1000, seed=2, level=LEVELS, split="test") if p.family != "word"}
    assert len(train) > 2000 and len(test) > 400
    assert not train & test


def test_word_problems_keep_their_split_across_languages():
    def stories(language: str, split: str) -> set:
        problems = draw(800, families=["word"], language=language, split=split)
        # The same numbers may make different stories, but a story is told by its solution too.
        steps = (re.sub(r"[^\d+\-*/=\n]", "", p.gold_reasoning) for p in problems)
        return {(tuple(sorted(numbers_in(p.question))), s) for p, s in zip(problems, steps, strict=True)}

    assert not stories("en", "train") & stories("zh", "test")
    assert not stories("zh", "train") & stories("en", "test")


def test_a_split_follows_from_what_is_asked_alone():
    assert split_of("arithmetic", "12+34") == split_of("arithmetic", "12+34")
    share = np.mean([split_of("arithmetic", f"{a}+77") == "test" for a in range(4000)])
    assert 0.10 < share < 0.15  # one in eight


def test_same_seed_same_problems_under_any_hash_seed():
    code = (
        "import numpy as np; from llmgym.envs.math_reason import MathTask;"
        "r = np.random.default_rng(7); t = MathTask(level=(1, 2, 3, 4, 5)); print([t.sample(r).problem_id for _ in range(200)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 1000


def test_neighbouring_seeds_do_not_walk_in_step():
    first, second = ([p.problem_id for p in draw(200, seed=s, level=3)] for s in (10, 11))
    assert len(set(first) & set(second)) < 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"families": ["algebra"]},
        {"families": []},
        {"level": 6},
        {"level": [1, 9]},
        {"language": "fr"},
        {"split": "dev"},
    ],
)
def test_an_unknown_choice_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(InvalidOptionError, match=f"`{name}`"):
        gym.make("llmgym/MathReason-v0", **wrong)


def test_generated_choices_do_not_mix_with_a_data_set(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"question": "1+1?", "answer": "2"}) + "\n")
    with pytest.raises(InvalidOptionError, match="level"):
        gym.make("llmgym/MathReason-v0", dataset=str(path), split="all", level=2)


def test_fields_of_a_data_set_may_have_other_names(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"Q": "1+1?", "A": "2"}) + "\n")
    options = {"dataset": str(path), "split": "all"}
    with pytest.raises(llmgym.DatasetError, match="`question_field` and `answer_field`"):
        gym.make("llmgym/MathReason-v0", **options)
    env = gym.make("llmgym/MathReason-v0", question_field="Q", answer_field="A", **options)
    env.reset(seed=0)
    assert env.unwrapped.transcript.problem.reference_answer == "2"
    with pytest.raises(InvalidOptionError, match="with `dataset` only"):
        gym.make("llmgym/MathReason-v0", answer_field="A")


def test_demonstrations_are_right_and_mixed():
    stream = demonstrations(MathTask(), seed=0, terse=0.5, short=0.25)
    correctness, _ = make_reward("correctness", 1.0)
    lines = []
    for _, (problem, response) in zip(range(400), stream, strict=False):
        transcript = Transcript(
            problem, problem.question, ((Author.AGENT, response),), 1, stop_reason=StopReason.END_TOKEN
        )
        assert correctness.score(transcript) == 1.0, (problem, response)
        lines.append(response.count("\n"))
    assert 0.42 < np.mean(np.array(lines) == 0) < 0.58


def test_a_draft_names_both_languages():
    import random

    for family, make in FAMILIES.items():
        draft: Draft = make(random.Random(0), 1)
        assert set(draft.wording) == set(draft.steps) == {"en", "zh"}, family


# ------------------------------------------------------------------------------------------------------ data sets


@pytest.mark.parametrize("name", ["gsm8k_test", "svamp"])
@pytest.mark.parametrize("vocabulary", ["shipped", "real size"])
def test_real_data_sets(shared_data, tmp_path_factory, name, vocabulary):
    tokenizer = "tiny-reasoner" if vocabulary == "shipped" else str(real_size_tokenizer(shared_data, tmp_path_factory))
    env = gym.make(
        "llmgym/MathReason-v0",
        dataset=str(shared_data / f"{name}.jsonl.gz"),
        split="all",
        tokenizer=tokenizer,
        prompt_template="r1",
        max_prompt_tokens=2048,
    )
    if vocabulary == "real size":
        assert env.action_space.n == 151_936
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        problem = env.unwrapped.transcript.problem
        assert env.unwrapped.tokenizer.decode(
            observation["input_ids"][observation["attention_mask"] == 1].tolist()
        ) == (env.unwrapped.transcript.prompt)
        assert problem.question in env.unwrapped.transcript.prompt
        for token in env.unwrapped.tokenizer.encode(f"<answer>{problem.reference_answer}</answer>"):
            env.step(token)
        _, reward, terminated, _, _ = env.step(env.unwrapped.tokenizer.end_token_id)
        assert terminated and reward == 1.0, problem


def real_size_tokenizer(shared_data, tmp_path_factory):
    """A byte-level BPE trained on the questions, filled up to the size of Qwen2.5's vocabulary."""
    import gzip

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.getbasetemp() / "real-size"
    if folder.exists():
        return folder
    with gzip.open(shared_data / "gsm8k_train.jsonl.gz", "rt", encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for line in file]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=8_000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(questions, trainer)
    description = json.loads(tokenizer.to_str())
    vocabulary = description["model"]["vocab"]
    vocabulary.update({f"<|reserved_{i}|>": i for i in range(len(vocabulary), 151_936)})
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


def test_the_shipped_vocabulary_holds_any_text():
    tokenizer = llmgym.load_tokenizer("tiny-reasoner")
    for text in ("héllo 你好 🎉\n\t\x00", "<think>1+1=2\n</think><answer>2</answer>", "  two  spaces  ", "١٢٣"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for piece in (*"0123456789+-*/=\n", "<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer.encode(piece)) == 1
