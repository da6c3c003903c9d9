"""Fuzzes the verifier with atheris: any two texts get a verdict, soon, and the same one twice.

    pip install atheris                                   # Linux, Python 3.11 to 3.13
    python scripts/fuzz_verifier.py --seconds 3600        # stops at the first failure, else after an hour

The corpus starts with the judged cases of the tests (the response, a zero byte, the reference answer) and grows in
``--corpus``, so that a later run goes on where this one stopped. A failing input is kept as ``crash-...`` in
``--artifacts``; run it again with ``--input FILE``. Time is that of the processor, and the least of a few calls counts.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "golden")]

# Coverage of our own modules only; of numpy and Gymnasium nothing is to be learned.
with atheris.instrument_imports(include=["llmgym.rewards"]):
    from llmgym.rewards import verify

from verifier_cases import CASES  # noqa: E402 - from the folder of the tests

SEPARATOR = b"\0"
#: What an input may hold; the parts of the verifier that see more than this are bounded by length alone.
MAX_BYTES = 8192


class SlowVerdictError(Exception):
    """One verdict took longer than the limit."""


def split(data: bytes) -> tuple[str, str]:
    """Response and reference answer; bytes that are no UTF-8 become lone surrogates, which a response may hold too."""
    response, _, reference_answer = data.partition(SEPARATOR)
    return response.decode("utf-8", "surrogateescape"), reference_answer.decode("utf-8", "surrogateescape")


def check(response: str, reference_answer: str, limit: float) -> None:
    verdicts = []
    least = float("inf")
    for attempt in range(5):
        start = time.process_time()
        verdicts.append(verify(response, reference_answer))
        least = min(least, time.process_time() - start)
        if least < limit and attempt > 0:
            break
    if least >= limit:
        raise SlowVerdictError(f"Expected a verdict within {limit:.3f} s, actual: {least:.3f} s.")
    if any(verdict != verdicts[0] for verdict in verdicts):
        raise AssertionError(f"Expected one verdict each time, actual: {verdicts}.")


def write_corpus(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        texts = (case.response, case.reference_answer)
        data = SEPARATOR.join(text.encode("utf-8", "surrogatepass") for text in texts)
        if len(data) <= MAX_BYTES:
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return len(list(folder.iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="how long to go on")
    parser.add_argument("--limit-ms", type=float, default=50.0, help="processor time that a verdict may take")
    parser.add_argument("--corpus", type=Path, help="folder of the corpus; a temporary one without it")
    parser.add_argument("--artifacts", type=Path, default=Path("runs/fuzz"), help="folder for failing inputs")
    parser.add_argument("--input", type=Path, help="only run this input, such as a crash file")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.seconds < 1:
        parser.error(f"Expected --seconds >= 1, actual: {args.seconds}.")

    limit = args.limit_ms / 1000
    if args.input is not None:
        response, reference_answer = split(args.input.read_bytes())
        print(f"response: {response!r}\nreference answer: {reference_answer!r}")
        check(response, reference_answer, limit)
        print(f"verdict: {verify(response, reference_answer)}")
        return

    corpus = args.corpus or Path(tempfile.mkdtemp(prefix="llmgym-fuzz-"))
    print(f"{write_corpus(corpus)} inputs in {corpus}")
    args.artifacts.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={args.seconds}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={args.artifacts}/",
        f"-seed={args.seed}",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: check(*split(data), limit))
    atheris.Fuzz()  # leaves the process


if __name__ == "__main__":
    main()
