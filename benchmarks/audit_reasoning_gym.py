"""Audits every data set of reasoning-gym: its scorer as it is, and the task as `llmgym/ReasoningGym-v0` pays it.

    python benchmarks/audit_reasoning_gym.py                        # all 106, about half an hour on one core
    python benchmarks/audit_reasoning_gym.py --tasks coin_flip jugs # a few, and no document is written

Writes docs/reasoning_gym.md once there is a row for every task, and with --json the reports, to which a later run of a
few tasks adds. Needs `pip install -r requirements/reasoning_gym.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import platform
import resource
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmgym.envs.reasoning_gym import (
    AUDITED_VERSION,
    ReasoningGymTask,
    library_dataset,
    library_entry,
    reference_answer,
)
from llmgym.envs.reasoning_gym_judges import ACCEPTED, REFUSED, REPAIRED
from llmgym.tasks import Problem, question_hash
from llmgym.testing import audit, audit_reward
from llmgym.tokenizers import TINY_REASONER, load_tokenizer

ENV_ID = "llmgym/ReasoningGym-v0"
DOCUMENT = Path(__file__).parent.parent / "docs" / "reasoning_gym.md"
#: How its users pose it: the answer stands between tags, and its own function reads it.
FORM = "<answer>{answer}</answer>"
#: Say nothing of a scorer: whether this program's wrapper around it can be pickled, and what the library's function for
#: reading the answer, the same for all of them, makes of answer tags inside the thinking.
NOT_OF_THE_SCORER = frozenset({"pickling", "hash_seed", "hidden"})
MEMORY = 8 << 30
#: Tasks whose items take long to make: fewer of them are looked at.
SLOW_ITEMS = 0.05


@dataclass(frozen=True)
class LibraryScorer:
    """The library's own scorer, partial credit included."""

    task: str
    entries: dict[str, dict[str, Any]]

    def __call__(self, response: str, problem: Problem) -> float:
        from reasoning_gym.utils import extract_answer

        dataset = library_dataset(self.task, "{}")
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the code that some of them run
            return float(dataset.score_answer(extract_answer(response), self.entries[problem.problem_id]))


@dataclass(frozen=True)
class Row:
    """What there is to say of a task; plain values.

    Attributes:
        theirs: Names of the checks in which the library's scorer was found wanting.
        ours: The same of this environment; ``None`` where the task is refused.
        reports: Both score cards in full.
    """

    task: str
    kind: str
    theirs: list[str] = field(default_factory=list)
    ours: list[str] | None = None
    n_items: int = 0
    n_different: int = 0
    n_dropped: int = 0
    commonest: str = ""
    commonest_share: float = 0.0
    longest_prompt: int = 0
    milliseconds: float = 0.0
    slowest: float = 0.0
    reports: dict[str, Any] = field(default_factory=dict)


def look_at(task: str, n_problems: int, n_items: int, deadline: float) -> Row:
    """Draw items, audit the library's scorer on some of them, and the adapter."""
    kind = "accepted" if task in ACCEPTED else "repaired" if task in REPAIRED else "refused"
    if task == "composite":
        return Row(task, kind)
    tokenizer = load_tokenizer(TINY_REASONER)
    rng = np.random.default_rng(0)
    entries, seconds = [], []
    while len(entries) < n_items and (sum(seconds) < n_items * SLOW_ITEMS or len(entries) < n_problems):
        start = time.perf_counter()
        entries.append(library_entry(task, "{}", int(rng.integers(2**32))))
        seconds.append(time.perf_counter() - start)
    found = [entry for entry in entries if entry is not None]
    answers = Counter(reference_answer(task, entry) for entry in found)
    (commonest, count), *_ = answers.most_common(1)
    by_id = {question_hash(entry["question"]).hex(): entry for entry in found}
    chosen = dict(list(by_id.items())[:n_problems])
    problems = [Problem(entry["question"], reference_answer(task, entry), key) for key, entry in chosen.items()]
    theirs = audit_reward(LibraryScorer(task, chosen), problems, name=task, deadline=deadline, form=FORM)
    ours, n_dropped = None, 0
    if kind != "refused":
        ours = audit(ENV_ID, task=task, n_problems=n_problems, deadline=deadline)
        if any("took up to" in result.reason for result in ours.findings):  # the machine may have been busy
            ours = audit(ENV_ID, task=task, n_problems=n_problems, deadline=deadline)
        everything = ReasoningGymTask(task, split="all")
        n_dropped = len(entries) - sum(everything.to_problem(i, entry) is not None for i, entry in enumerate(found))
    return Row(
        task,
        kind,
        theirs=[result.name for result in theirs.findings if result.name not in NOT_OF_THE_SCORER],
        ours=None if ours is None else [result.name for result in ours.findings],
        n_items=len(entries),
        n_different=len(by_id),
        n_dropped=n_dropped,
        commonest=commonest,
        commonest_share=count / len(found),
        longest_prompt=max(len(tokenizer.encode(entry["question"])) for entry in found),
        milliseconds=1000 * sum(seconds) / len(seconds),
        slowest=max(seconds),
        reports={"theirs": theirs.to_dict(), "ours": None if ours is None else ours.to_dict()},
    )


# --- The document -----------------------------------------------------------------------------------------------------

HEAD = """\
# reasoning-gym

`llmgym/ReasoningGym-v0` poses the problems of [reasoning-gym](https://github.com/open-thought/reasoning-gym), version
{version}, and judges the answers: {n_accepted} of its {n_all} data sets with their own scorers, {n_repaired} with a
judge of ours because their scorer pays for wrong answers, runs the answer or raises, and {n_refused} not at all.

```python
env = gym.make("llmgym/ReasoningGym-v0", task="chain_sum", task_kwargs={{"max_terms": 4}})
envs = gym.make_vec("llmgym/ReasoningGym-v0", num_envs=64, task="puzzle24", split="test")
```

Install it with `pip install "llmgym-rl[reasoning-gym]"` (one of its requirements, pycosat, is built from C source).

## What differs from the library

- **Only a right answer is paid.** Nearly every scorer gives partial credit, for text that is not empty, for a right
  answer among many, or for coming close. Most of it can be had without solving anything, so none of it is paid: an
  answer earns 1 where the scorer gives it full marks and 0 otherwise.
- **Scorers that can be fooled do not decide.** Those tasks have a judge of ours (`llmgym.envs.reasoning_gym_judges`),
  which runs nothing of an answer and raises nothing, whatever the text. Tasks without a reference answer, or whose
  problems are wrong or change from process to process, are refused: `gym.make` says why.
- **A number may be written in any notation** (`1,042` for 1042), judged by `llmgym.rewards`.
- **Seeds are independent.** In the library item `i` of seed `s` is item `i - 1` of seed `s + 1`; here each episode
  draws one of 2^32 items with the environment's generator.
- **A seed means the same everywhere.** Items of isomorphic_strings, ransom_note, polynomial_multiplication and
  word_ladder change with `PYTHONHASHSEED` in the library, some of list_functions with the global generator of `random`,
  and pool_matrix seeds that of NumPy; here none of this happens. What the library prints is not shown.
- **`split="test"` shares no question with `split="train"`:** a hash of the question decides, one in ten is for testing.
  A test problem thus costs ten draws. tower_of_hanoi, string_splitting and coin_flip have so few questions with
  their default configuration that a test split holds a handful: widen it with `task_kwargs`.
- **Every problem can be solved.** An item whose reference answer cannot be read from a response (it is empty, or longer
  than 4,096 characters) or is refused by its own judge is passed over.
- **Two defaults are harder:** `edge_probability=0.4` for graph_color and `max_remove=5` for n_queens. With the
  library's, one constant answer solves a third and a tenth of the problems.
- **The answer has to be marked as one,** by `<answer>` tags, `\\boxed{{}}`, `####` or words such as "the answer is".
  The rules that take a short response, or the last number of a longer one, for the answer are off: most answers here
  are lists, grids, moves or texts. (`rewards={{"correctness": 1.0}}` turns them on.)

The default budgets, `max_prompt_tokens=1024` and `max_new_tokens=512`, hold most tasks' prompts in tokens of the
shipped tokenizer, which is made for arithmetic; a tokenizer of a large model needs about a third of them. The tables
have the longest prompt seen: where it is above 1,024, pass more.

## How to read the tables

{command}, on {n_problems} problems of each task, with {python}. *Audit* lists the checks of `llmgym audit` in which the
library's scorer, partial credit included, was paid or failed where it should not: `form` is a wrong answer in the right
form, `constant` one answer to every question, `listed` the right answer among twenty, `executed` an answer that is run
or raises, `huge` numbers too large to work out, `range` a score that is no finite number; `docs/audit.md` explains the
others. (The library's function for reading the answer takes it from the thinking too; that is not held against the
scorers.) *Commonest* is the share of problems with the commonest reference answer: what always giving it earns.
*Different* is the number of different questions among those drawn, *prompt* the longest of them in tokens, *ms* the
time to make one, on the machine at hand.
"""

LISTS = {
    "accepted": "Their own scorer decides, in full marks only.",
    "repaired": "A judge of ours decides, or reads the answer first, because of what the scorer does:",
    "refused": "`gym.make` raises an error with the reason:",
}


def write_document(rows: list[Row], n_problems: int) -> str:
    """The page, in Markdown."""
    of = {kind: [row for row in rows if row.kind == kind] for kind in LISTS}
    command = "`python benchmarks/audit_reasoning_gym.py`"
    text = HEAD.format(
        version=AUDITED_VERSION,
        n_all=len(rows),
        n_accepted=len(of["accepted"]),
        n_repaired=len(of["repaired"]),
        n_refused=len(of["refused"]),
        command=command,
        n_problems=n_problems,
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )
    adapted = [row for row in rows if row.ours is not None]
    text += (
        f"\nThe audit finds something in {sum(bool(row.theirs) for row in rows)} of {len(rows)} scorers as they are, "
    )
    text += f"and in {sum(bool(row.ours) for row in adapted)} of the {len(adapted)} tasks of this environment"
    exceptions = [f"{row.task} ({', '.join(row.ours)})" for row in adapted if row.ours]
    text += f": {'; '.join(exceptions)}.\n" if exceptions else ".\n"
    why = {task: repair.why for task, repair in REPAIRED.items()} | dict(REFUSED)
    for kind, explanation in LISTS.items():
        text += f"\n## {kind.capitalize()}: {len(of[kind])}\n\n{explanation}\n\n"
        reason = "" if kind == "accepted" else " why |"
        text += f"| task | audit of its scorer | commonest | different | prompt | ms |{reason}\n"
        text += f"|---|---|---|---|---|---|{'---|' if reason else ''}\n"
        for row in of[kind]:
            text += _line(row) + (f" {_cell(why[row.task])} |\n" if reason else "\n")
    return text


def _line(row: Row) -> str:
    if not row.n_items:
        return f"| {row.task} | | | | | |"
    shown = row.commonest if len(row.commonest) <= 16 else row.commonest[:15] + "…"
    common = f"{_cell(shown)} {row.commonest_share:.0%}" if row.commonest_share >= 0.1 else f"{row.commonest_share:.0%}"
    audited = ", ".join(row.theirs) or "nothing"
    different = f"{row.n_different} of {row.n_items}"
    cost = f"{row.milliseconds:.1f}" + (f" (up to {row.slowest:.0f} s)" if row.slowest > 1 else "")
    return f"| {row.task} | {audited} | {common} | {different} | {row.longest_prompt:,} | {cost} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=[], help="names; none for all")
    parser.add_argument("--n-problems", type=int, default=10, help="problems that a task is audited with")
    parser.add_argument("--n-items", type=int, default=200, help="items drawn for the other columns")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds after which a response is given up")
    parser.add_argument("--json", type=Path, help="file for the reports; tasks not asked for keep theirs")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))  # some scorers take all there is
    rows: dict[str, Row] = {}
    if options.json and options.json.exists():
        rows = {values["task"]: Row(**values) for values in json.loads(options.json.read_text(encoding="utf-8"))}
    everything = sorted({*ACCEPTED, *REPAIRED, *REFUSED})
    asked_for = options.tasks or everything
    for task in asked_for:
        start = time.perf_counter()
        row = rows[task] = look_at(task, options.n_problems, options.n_items, options.deadline)
        theirs, ours = (", ".join(names or []) or "-" for names in (row.theirs, row.ours))
        seconds = time.perf_counter() - start
        print(f"{task:26} {row.kind:9} scorer: {theirs}   ours: {ours}   ({seconds:.0f} s)", flush=True)
        if options.json:
            text = json.dumps([dataclasses.asdict(rows[task]) for task in sorted(rows)], indent=1) + "\n"
            options.json.write_text(text, encoding="utf-8")
    if rows.keys() >= set(everything):
        DOCUMENT.write_text(write_document([rows[task] for task in everything], options.n_problems), encoding="utf-8")
    sys.exit(any(rows[task].ours for task in asked_for))


if __name__ == "__main__":
    main()
