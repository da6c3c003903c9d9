import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgym.errors import DatasetError, InvalidOptionError, MissingExtraError
from llmgym.tasks import DatasetTask, Problem, Task


def write(path: Path, rows: list[Any]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def rows(n: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i}+1?", "answer": i + 1} for i in range(n)]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_a_file_becomes_problems(tmp_path: Path, name: str) -> None:
    data = [{"question": "What is 6*7?", "answer": "Six sevens.\n#### 42"}, "", {"question": "你好?", "answer": 7}]
    task = DatasetTask(str(write(tmp_path / name, data)), split="all")
    assert isinstance(task, Task)
    assert [problem.reference_answer for problem in task.problems] == ["42", "7"]
    assert task.problems[0].gold_reasoning == "Six sevens."
    assert task.problems[0].family == "d"
    assert task.sample(np.random.default_rng(0)) in task.problems


def test_splits_are_disjoint_complete_and_independent_of_order(tmp_path: Path) -> None:
    path, shuffled = write(tmp_path / "a.jsonl", rows(300)), write(tmp_path / "b.jsonl", rows(300)[::-1])
    train, test, whole = (DatasetTask(str(path), split=split) for split in ("train", "test", None))
    ids = [{problem.problem_id for problem in task.problems} for task in (train, test, whole)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == ids[2]
    assert 10 <= len(test) <= 60
    assert {problem.problem_id for problem in DatasetTask(str(shuffled), split="test").problems} == ids[1]


def test_a_question_asked_twice_stays_on_one_side(tmp_path: Path) -> None:
    data = rows(60) + [{"question": f"What is  {i}+1? ", "answer": "other"} for i in range(60)]
    path = str(write(tmp_path / "a.jsonl", data))
    train, test = DatasetTask(path, split="train"), DatasetTask(path, split="test")
    normal = [{" ".join(problem.question.split()) for problem in task.problems} for task in (train, test)]
    assert not normal[0] & normal[1]
    assert len({problem.problem_id for problem in train.problems}) == len(train)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "a", "answer": ', r"line 2, column \d+"),
        ("[1, 2]", r"line 2 has a list"),
        ('{"question": "a"}', r"field 'answer'.*line 2 has None.*\['question'\].*answer_field"),
        ('{"question": null, "answer": "1"}', r"field 'question'.*line 2 has None"),
        ('{"question": "  ", "answer": "1"}', r"not empty.*line 2"),
        ('{"question": "a", "answer": ""}', r"answer that is not empty.*line 2"),
        ('{"question": "a", "answer": "so it is ####"}', r"answer that is not empty.*line 2"),
        ('{"question": "a", "answer": NaN}', r"field 'answer'.*line 2 has nan"),
        ('{"question": "a", "answer": true}', r"field 'answer'.*line 2 has True"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = write(tmp_path / "broken.jsonl", [rows(1)[0], line])
    with pytest.raises(DatasetError, match=complaint) as raised:
        DatasetTask(str(path), split="all")
    assert "broken.jsonl" in str(raised.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"file that exists.*none\.jsonl.*Check the path"):
        DatasetTask(str(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9", "answer": "1"}\n')
    with pytest.raises(DatasetError, match=r"UTF-8.*latin\.jsonl, near line 1"):
        DatasetTask(str(tmp_path / "latin.jsonl"))
    whole = write(tmp_path / "cut.jsonl.gz", rows(500)).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"can be read.*cut\.jsonl\.gz.*Download"):
        DatasetTask(str(tmp_path / "cut.jsonl.gz"))
    with pytest.raises(DatasetError, match=r"at least one problem in the train split.*empty\.jsonl"):
        DatasetTask(str(write(tmp_path / "empty.jsonl", [])))


def test_other_field_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"Q": "a?", "A": "1"}])
    task = DatasetTask(str(path), split="all", question_field="Q", answer_field="A")
    assert task.problems[0].question == "a?"
    with pytest.raises(InvalidOptionError, match=r"`split`.*'dev'"):
        DatasetTask(str(path), split="dev")


def test_the_hub_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llmgym-rl\[data\]"'):
        DatasetTask("openai/gsm8k:main")


def test_a_hub_name_is_loaded_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        @staticmethod
        def load_dataset(path: str, configuration: str | None, split: str | None) -> Any:
            assert (path, configuration) == ("some/data", "main")
            if split is None:
                return {"train": rows(3), "test": rows(2)}
            if split == "test":
                return [{"question": "a?", "answer": None}]
            raise ValueError(f"no split {split}")

    monkeypatch.setitem(sys.modules, "datasets", Hub)
    assert len(DatasetTask("some/data:main", split="all")) == 5
    with pytest.raises(DatasetError, match=r"some/data:main, split test, row 1 has None"):
        DatasetTask("some/data:main", split="test")
    with pytest.raises(DatasetError, match=r"train split.*some/data:main.*no split train"):
        DatasetTask("some/data:main", split="train")


def test_problems_from_plain_values() -> None:
    problem = Problem.from_dict({"question": "a?", "answer": "1", "level": 2})
    assert (problem.reference_answer, problem.level) == ("1", 2)
    assert problem.problem_id == Problem.from_dict({"question": " a?", "answer": "1"}).problem_id
    with pytest.raises(InvalidOptionError, match="reference_answer=None"):
        Problem.from_dict({"question": "a?"})
    with pytest.raises(InvalidOptionError, match=r"actual: \['hint'\]"):
        Problem.from_dict({"question": "a?", "answer": "1", "hint": "2"})
    assert "answer" not in " ".join(problem.info())
