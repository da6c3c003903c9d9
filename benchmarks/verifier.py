"""The verifier beside Math-Verify in one run: the judged cases of the tests, then speed on responses of models.

    python -m venv peers && peers/bin/pip install -r requirements/peers.txt
    PYTHONPATH=. peers/bin/python benchmarks/verifier.py [--data ../shared/data] [--json out.json]

Math-Verify reads formulas within ``$...$`` or a box, so it is also run with the answer handed over that way: what
stands in the last ``<answer>`` tags, or a short response, is put between dollar signs. Its exceptions and time-outs
count as a refusal, and are counted. Without Math-Verify installed only our own rows are shown.

Rates and times are of processor time of one thread, since other programs may share the machine. The model responses
are the labelled ones of ``gsm8k_model_responses.jsonl.gz`` in ``--data``; without that file, those of the cases.
About three minutes. You will see three tables.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "golden"))

from rich.console import Console  # noqa: E402 - after the number of threads is set
from rich.table import Table  # noqa: E402
from verifier_cases import CASES, Case  # noqa: E402

from llmgym.rewards import judge  # noqa: E402

HAS_PEER = importlib.util.find_spec("math_verify") is not None
INSTALL = "Math-Verify is not installed: pip install -r requirements/peers.txt"

#: "correct", "incorrect", "unverifiable", "time-out" or "error": of a response and its reference answer.
Decide = Callable[[str, str], str]


class Sample(NamedTuple):
    """A response of a model, with its label."""

    response: str
    reference_answer: str
    correct: bool


@dataclass(frozen=True)
class CaseScore:
    """What a verifier made of the judged cases."""

    n_cases: int
    accuracy: float
    false_positives: int
    false_positives_adversarial: int
    false_negatives: int
    unverifiable: int
    errors: int
    files_written: int
    cases_per_second: float
    slowest_ms: float


@dataclass(frozen=True)
class Speed:
    """How long a verifier takes for the responses of models, in processor time."""

    n_responses: int
    agreement: float
    responses_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def ours(response: str, reference_answer: str) -> str:
    return judge(response, reference_answer).status.value


def peer(response: str, reference_answer: str) -> str:
    """Math-Verify on the response as it is. Its time limits are its own (5 s each): they need the main thread."""
    import math_verify
    from math_verify.errors import TimeoutException

    try:
        reference = math_verify.parse(f"${reference_answer}$", raise_on_error=True)
        answer = math_verify.parse(response, raise_on_error=True)
        return "correct" if math_verify.verify(reference, answer, raise_on_error=True) else "incorrect"
    except TimeoutException:
        return "time-out"
    except Exception:  # noqa: BLE001 - whatever it raises is counted
        return "error"


def peer_helped(response: str, reference_answer: str) -> str:
    return peer(handed_over(response), reference_answer)


def handed_over(response: str) -> str:
    """The response as Math-Verify likes it best: the tagged or short answer between dollar signs."""
    text = response.rpartition("</think>")[2]
    head, closing, _ = text.rpartition("</answer>")
    if closing and "<answer>" in head:
        text = head.rpartition("<answer>")[2]
    text = text.strip()
    is_bare = len(text) <= 64 and "\n" not in text and "$" not in text and "boxed" not in text
    return f"${text}$" if is_bare else text


def warm_up(decide: Decide) -> None:
    """What is imported or made at first use is no part of a case."""
    for response, reference_answer in (("42", "42"), ("$2\\sqrt{3}$", "\\sqrt{12}"), ("$(x+1)^2$", "x^2+2x+1")):
        decide(response, reference_answer)


def timed(decide: Decide, response: str, reference_answer: str) -> tuple[str, float]:
    start = time.process_time()
    verdict = decide(response, reference_answer)
    return verdict, time.process_time() - start


def run_cases(decide: Decide, cases: Sequence[Case]) -> tuple[CaseScore, list[str]]:
    """Every case in an empty folder, where code in a response would leave a file behind."""
    warm_up(decide)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        judged = [timed(decide, case.response, case.reference_answer) for case in cases]
        n_files = len(list(Path(folder).iterdir()))
    verdicts = Counter(verdict for verdict, _ in judged)
    wrong = [case for case, (verdict, _) in zip(cases, judged, strict=True) if (verdict == "correct") != case.correct]
    paid = [case for case in wrong if not case.correct]
    score = CaseScore(
        n_cases=len(cases),
        accuracy=1 - len(wrong) / len(cases),
        false_positives=len(paid),
        false_positives_adversarial=sum(case.adversarial for case in paid),
        false_negatives=len(wrong) - len(paid),
        unverifiable=verdicts["unverifiable"],
        errors=verdicts["time-out"] + verdicts["error"],
        files_written=n_files,
        cases_per_second=len(cases) / sum(seconds for _, seconds in judged),
        slowest_ms=1000 * max(seconds for _, seconds in judged),
    )
    lines = [f"{case.category}: {case.response[:100]!r} for {case.reference_answer[:60]!r}" for case in wrong]
    return score, lines


def read_samples(folder: Path) -> tuple[str, list[Sample]]:
    path = folder / "gsm8k_model_responses.jsonl.gz"
    if not path.exists():
        return "responses of the cases", [Sample(*case[:3]) for case in CASES]
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    responses = [(row["answer"], response) for row in rows for response in row["responses"]]
    return path.name, [Sample(response["text"], answer, response["correct"]) for answer, response in responses]


def run_speed(decide: Decide, samples: Sequence[Sample]) -> Speed:
    warm_up(decide)
    judged = [timed(decide, sample.response, sample.reference_answer) for sample in samples]
    agree = [(verdict == "correct") == sample.correct for (verdict, _), sample in zip(judged, samples, strict=True)]
    ordered = sorted(1000 * seconds for _, seconds in judged)
    return Speed(
        n_responses=len(samples),
        agreement=sum(agree) / len(agree),
        responses_per_second=len(samples) / sum(seconds for _, seconds in judged),
        p50_ms=ordered[len(ordered) // 2],
        p99_ms=ordered[int(0.99 * (len(ordered) - 1))],
        max_ms=ordered[-1],
    )


def import_ms(module: str, before: str = "") -> float:
    """Milliseconds of processor time for an import in a fresh interpreter: the least of seven, the first compiles."""
    code = f"{before}\nimport time; start = time.process_time(); import {module}; print(time.process_time() - start)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as bytecode:  # an installed package has its bytecode beside it
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        command = [sys.executable, "-c", code]
        runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(7)]
    return 1000 * min(float(run.stdout) for run in runs)


def table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """The figures turned on their side: a column for each verifier, so that it fits a narrow terminal."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for column in columns:
        shown.add_column(column, justify="right")
    for name, cells in rows:
        shown.add_row(name, *cells)
    return shown


def show_cases(scores: dict[str, CaseScore]) -> Table:
    rows = [
        ("accuracy", [f"{score.accuracy:.4f}" for score in scores.values()]),
        ("wrong answers paid", [f"{score.false_positives}" for score in scores.values()]),
        ("of these adversarial", [f"{score.false_positives_adversarial}" for score in scores.values()]),
        ("right answers refused", [f"{score.false_negatives}" for score in scores.values()]),
        ("said to be unverifiable", [f"{score.unverifiable}" for score in scores.values()]),
        ("errors and time-outs", [f"{score.errors}" for score in scores.values()]),
        ("files written by responses", [f"{score.files_written}" for score in scores.values()]),
        ("cases / s", [f"{score.cases_per_second:,.0f}" for score in scores.values()]),
        ("slowest case, ms", [f"{score.slowest_ms:,.1f}" for score in scores.values()]),
    ]
    n_adversarial = sum(case.adversarial for case in CASES)
    return table(f"{len(CASES):,} judged cases, {n_adversarial} of them adversarial", list(scores), rows)


def show_speed(title: str, speeds: dict[str, Speed]) -> Table:
    first = next(iter(speeds.values())).responses_per_second
    rows = [
        ("responses", [f"{speed.n_responses:,}" for speed in speeds.values()]),
        ("agreement with the labels", [f"{speed.agreement:.4f}" for speed in speeds.values()]),
        ("responses / s", [f"{speed.responses_per_second:,.0f}" for speed in speeds.values()]),
        ("times slower than ours", [f"{first / speed.responses_per_second:,.1f}" for speed in speeds.values()]),
        ("p50, ms", [f"{speed.p50_ms:,.3f}" for speed in speeds.values()]),
        ("p99, ms", [f"{speed.p99_ms:,.3f}" for speed in speeds.values()]),
        ("slowest, ms", [f"{speed.max_ms:,.2f}" for speed in speeds.values()]),
    ]
    return table(title, list(speeds), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the responses")
    parser.add_argument("--peer-sample", type=int, default=300, help="responses that Math-Verify is timed on")
    parser.add_argument("--misjudged", action="store_true", help="also list the cases that ours gets wrong")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if args.peer_sample < 1:
        parser.error(f"Expected --peer-sample >= 1, actual: {args.peer_sample}.")

    console = Console()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every failure; they are counted here
    verifiers: dict[str, Decide] = {"llmgym": ours}
    if HAS_PEER:
        verifiers |= {"Math-Verify": peer, "Math-Verify, helped": peer_helped}
    else:
        console.print(INSTALL)

    runs = {name: run_cases(decide, CASES) for name, decide in verifiers.items()}
    scores = {name: score for name, (score, _) in runs.items()}
    console.print(show_cases(scores))
    if args.misjudged:
        console.print("\n".join(runs["llmgym"][1]), markup=False, highlight=False)

    source, samples = read_samples(args.data)
    sample = samples[:: max(1, len(samples) // args.peer_sample)][: args.peer_sample]
    speeds = {
        name: run_speed(decide, samples if decide is ours else sample)
        for name, decide in verifiers.items()
        if decide is not peer_helped
    }
    console.print(show_speed(f"Model responses: {source}", speeds))

    imports = {
        "llmgym.rewards, beyond gymnasium and numpy": import_ms("llmgym.rewards", before="import gymnasium, numpy"),
        "llmgym.rewards alone": import_ms("llmgym.rewards"),
        "numpy alone, which tells how fast the machine is": import_ms("numpy"),
    }
    if HAS_PEER:
        imports["math_verify alone"] = import_ms("math_verify")
    rows = [(name, [f"{milliseconds:,.0f}"]) for name, milliseconds in imports.items()]
    console.print(table("Import", ["ms"], rows))

    if args.json is not None:
        figures: dict[str, Any] = {
            "cases": {name: asdict(score) for name, score in scores.items()},
            "responses": {"source": source, **{name: asdict(speed) for name, speed in speeds.items()}},
            "import_ms": imports,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
