"""ReasoningGym: items that are the same everywhere, judges that cannot be fooled, tasks that are refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import llmgym
from llmgym.envs import reasoning_gym as adapter
from llmgym.envs.reasoning_gym import ReasoningGymCheck, ReasoningGymTask
from llmgym.envs.reasoning_gym_judges import ACCEPTED, DEFAULTS, REFUSED, REPAIRED, polynomial
from llmgym.errors import DatasetError, InvalidOptionError, MissingExtraError
from llmgym.testing import check_language_env

ENV_ID = "llmgym/ReasoningGym-v0"
TASKS = sorted({*ACCEPTED, *REPAIRED})
#: Of every kind: drawn at once and when made, with sets of letters, with NumPy's generator, with many right answers.
A_FEW = (
    "acre", "chain_sum", "countdown", "gsm_symbolic", "isomorphic_strings", "list_functions",
    "polynomial_multiplication", "pool_matrix", "ransom_note", "word_ladder",
)  # fmt: skip


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("reasoning_gym", reason="needs requirements/reasoning_gym.txt")


def draw(task: str, n: int, seed: int = 0, **arguments: Any) -> list[llmgym.Problem]:
    source, rng = ReasoningGymTask(task, **arguments), np.random.default_rng(seed)
    return [source.sample(rng) for _ in range(n)]


def is_right(task: str, given: str, /, **entry: Any) -> bool:
    """The verdict of a repaired task on an answer to an item that is written out here."""
    return ReasoningGymCheck(task, "{}", 0, {"question": "", "answer": "", "metadata": {}} | entry)(given)


# --- The environment --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("unit", ["token", "step", "response"])
@pytest.mark.parametrize("task", ["chain_sum", "kakurasu"])
def test_both_contracts(task: str, unit: str) -> None:
    env = gym.make(ENV_ID, task=task, action_unit=unit)
    check_env(env.unwrapped)
    check_language_env(env)


@pytest.mark.usefixtures("library")
def test_the_vector_environment_is_many_single_ones() -> None:
    options: dict[str, Any] = {"task": "lcm", "task_kwargs": {"max_numbers": 3}, "split": "test"}
    envs = gym.make_vec(ENV_ID, num_envs=3, **options)
    _, infos = envs.reset(seed=10)
    alone = [gym.make(ENV_ID, **options).reset(seed=10 + i)[1]["problem_id"] for i in range(3)]
    assert infos["problem_id"].tolist() == alone
    asynchronous = gym.make_vec(ENV_ID, num_envs=2, vectorization_mode="async", **options)
    try:
        assert asynchronous.reset(seed=10)[1]["problem_id"].tolist() == alone[:2]
    finally:
        asynchronous.close()


@pytest.mark.usefixtures("library")
def test_a_right_response_is_paid_and_a_wrong_one_is_not() -> None:
    env = gym.make(ENV_ID, task="letter_jumble", action_unit="response", reveal_reference_answer=True)
    for seed in range(3):
        _, info = env.reset(seed=seed)
        _, reward, terminated, _, step_info = env.step(f"<answer>{info['reference_answer']}</answer>")
        assert (reward, terminated, step_info["reward_components"]) == (1.0, True, {"correctness": 1.0})
        env.reset(seed=seed)
        assert env.step(f"<answer>{info['reference_answer']} or not</answer>")[1] == 0.0


@pytest.mark.usefixtures("library")
def test_configurations_reach_the_library() -> None:
    problems = draw("chain_sum", 20, task_kwargs={"min_terms": 7, "max_terms": 7})
    assert all(sum(problem.question.count(sign) for sign in ("+ ", "- ")) == 6 for problem in problems)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", ["graph_color", "n_queens"])
def test_no_answer_solves_many_problems(task: str) -> None:
    problems = draw(task, 40)
    for answer in [problem.reference_answer for problem in problems[:20]]:
        assert sum(problem.accepts is not None and problem.accepts(answer) for problem in problems) <= 4
    assert draw(task, 1, task_kwargs=DEFAULTS[task])[0] == problems[0], "they are defaults"


@pytest.mark.usefixtures("library")
def test_problems_and_tasks_are_values() -> None:
    source = ReasoningGymTask("rubiks_cube")
    assert pickle.loads(pickle.dumps(source)) == source
    (problem,) = draw("rubiks_cube", 1)
    copy = pickle.loads(pickle.dumps(problem))
    assert copy == problem
    assert hash(copy.accepts) == hash(problem.accepts)
    assert copy.accepts is not None and copy.accepts(problem.reference_answer)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r'pip install "llmgym-rl\[reasoning-gym\]"'):
        gym.make(ENV_ID)


def test_the_file_loads_no_library() -> None:
    code = "import sys, llmgym.envs.reasoning_gym; print('reasoning_gym' in sys.modules, 'sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"task": "chain_sums"}, "`task` among.*Did you mean 'chain_sum'"),
        ({"task": 3}, "`task` among"),
        ({"split": "dev"}, "`split` among.*'dev'"),
        (
            {"task_kwargs": {"max_term": 3}},
            "`task_kwargs` that the task 'chain_sum' takes.*max_term.*It takes.*max_terms",
        ),
        ({"task_kwargs": {"min_terms": 9, "max_terms": 2}}, "`task_kwargs` that the task 'chain_sum' takes"),
        ({"task_kwargs": {"min_terms": "two"}}, "`task_kwargs` that the task 'chain_sum' takes"),
        ({"task_kwargs": {"seed": 3}}, r"without seed and size, actual: \['seed'\]"),
        ({"task_kwargs": {"min_terms": object()}}, "plain values"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOptionError, match=complaint):
        gym.make(ENV_ID, **options)


@pytest.mark.usefixtures("library")
def test_another_version_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "AUDITED_VERSION", "0.0.1")
    adapter._check_version.cache_clear()
    with pytest.warns(UserWarning, match=r"Expected reasoning_gym 0\.0\.1, whose scorers were audited, actual: 0\.1"):
        gym.make(ENV_ID)
    gym.make(ENV_ID)  # once is enough


def test_the_list_of_environments_needs_no_library() -> None:
    code = "import sys; sys.modules['reasoning_gym'] = None; from llmgym.cli import main; main(['list'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ENV_ID in done.stdout


@pytest.mark.parametrize("task", sorted(REFUSED))
def test_refused_tasks_say_why(task: str) -> None:
    with pytest.raises(InvalidOptionError, match="which is refused") as caught:
        ReasoningGymTask(task)
    assert REFUSED[task] in str(caught.value)


def test_every_task_has_been_looked_at(library: Any) -> None:
    from reasoning_gym.factory import DATASETS

    assert sorted([*ACCEPTED, *REPAIRED, *REFUSED]) == sorted(DATASETS), "each in one list"


# --- Items ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", A_FEW)
def test_neighbouring_seeds_share_no_problems(task: str) -> None:
    """The library's own seeds share all items but one."""
    first, second = ({problem.problem_id for problem in draw(task, 20, seed=seed)} for seed in (3, 4))
    assert len(first) >= 18, "nearly all of them are different"
    assert len(first & second) <= 1


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", ["chain_sum", "string_synthesis"])
def test_splits_are_disjoint(task: str) -> None:
    train, test, both = (
        {problem.problem_id for problem in draw(task, 300, split=split)} for split in ("train", "test", "all")
    )
    assert not train & test
    assert both & train and both & test


@pytest.mark.usefixtures("library")
def test_a_data_set_without_problems_of_the_split_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_DRAWS", 50)
    one_question = {"min_trials": 3, "max_trials": 3, "allow_exact": False}
    problems = draw("coin_flip", 30, task_kwargs=one_question, split="all")
    there = {split for split in ("train", "test") if _has(split, one_question)}
    assert len({problem.problem_id for problem in problems}) < 10 and there != {"train", "test"}
    (missing,) = {"train", "test"} - there
    with pytest.raises(DatasetError, match=f"problems in the {missing} split of 'coin_flip'.*none among 50 draws"):
        draw("coin_flip", 1, task_kwargs=one_question, split=missing)


def _has(split: str, task_kwargs: dict[str, Any]) -> bool:
    try:
        draw("coin_flip", 1, task_kwargs=task_kwargs, split=split)
    except DatasetError:
        return False
    return True


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", A_FEW)
def test_an_item_depends_on_nothing_but_its_index(task: str) -> None:
    source = ReasoningGymTask(task, split="all")
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = source.problem(2**32 - 1)
    source.problem(5)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert source.problem(2**32 - 1) == before
    assert before is not None and before.accepts is not None
    assert states == (random.getstate(), np.random.get_state()[1].tolist()), "global generators stay as they are"  # noqa: NPY002


DIGEST = """
import hashlib, sys, numpy as np
from llmgym.envs.reasoning_gym import ReasoningGymTask
digest = hashlib.sha256()
for task in sys.argv[2:]:
    source, rng = ReasoningGymTask(task, split="all"), np.random.default_rng(5)
    for _ in range(int(sys.argv[1])):
        problem = source.sample(rng)
        digest.update(repr((problem.question, problem.reference_answer, problem.problem_id)).encode())
print(digest.hexdigest())
"""


def digests(n: int, tasks: Any) -> set[str]:
    found = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DIGEST, str(n), *tasks]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found.add(done.stdout)
    return found


@pytest.mark.usefixtures("library")
def test_a_seed_means_the_same_under_any_hash_seed() -> None:
    assert len(digests(20, A_FEW)) == 1


@pytest.mark.usefixtures("library")
def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("bf", "tower_of_hanoi"):
        (problem,) = draw(task, 1)
        assert problem.accepts is not None
        problem.accepts("Move disk 1 from Peg 9 to Peg 8")
    assert capsys.readouterr().out == ""


# --- Judges -----------------------------------------------------------------------------------------------------------

WORSE_THAN_WRONG = (
    "", " ", "nan", "inf", "-1", "0", "{}", '{"a": 1}', "[NaN, NaN]", "6*4*1*1", "1e999999999", "9" * 4000, "[" * 4000,
    "(" * 4000, "1:" + "9" * 400, "×", "R999999999", "A+999999999", "__import__('os').getcwd()", "\x00", "é漢字🙂",
)  # fmt: skip


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "task", ["coin_flip", "game_of_life", "prime_factorization", "time_intervals", "jugs", "sokoban"]
)
def test_malformed_answers_are_wrong_and_raise_nothing(task: str) -> None:
    for problem in draw(task, 3):
        assert problem.accepts is not None and problem.accepts(problem.reference_answer)
        assert not any(problem.accepts(answer) for answer in WORSE_THAN_WRONG if answer != problem.reference_answer)


@pytest.mark.usefixtures("library")
def test_a_plain_number_may_be_written_in_any_notation() -> None:
    for problem in draw("count_primes", 5, task_kwargs={"max_n": 9000}):
        assert problem.accepts is not None
        number = int(problem.reference_answer)
        assert problem.accepts(f"{number:,}")
        assert not problem.accepts(f"{number + 1:,}")
        assert not problem.accepts(f"{number} or {number + 1}")
        assert not problem.accepts(f"[{number}]")


#: Task, entry, right answers, wrong answers.
REPAIRED_CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("puzzle24", {"metadata": {"numbers": [5, 1, 6, 2]}}, ["2*(5+1+6)", "(5 + 1 + 6) × 2"], ["6*4*1*1", "24", "5+1+6+2", "2*(5+1+6)=24"]),
    ("countdown", {"metadata": {"numbers": [3, 5], "target": 15}}, ["5*3"], ["15", "3*5*1", "3+5"]),
    ("game_of_life_halting", {"answer": "True"}, ["True", "true"], ["False", "x", "True or False"]),
    ("game_of_life", {"answer": "[[1,0],[0,1]]"}, ["[[1, 0], [0, 1.0]]"], ["[[1,0],[0,1],[0,0]]", "[[true,0],[0,1]]", "0", "{}"]),
    ("coin_flip", {"metadata": {"rational": {"numerator": 1, "denominator": 32768}}}, ["1/32768", "3.051757812e-05", "0.00003052"], ["0", "1/32767", "0.0001", "1/0"]),
    ("complex_arithmetic", {"metadata": {"result": (-6, 14)}}, ["-6.0 + 14.0i", "14i - 6", "(-6+14j)"], ["nan", "-6", "14i", "-6 - 14i", "(-8+5i) - (-2-9i)"]),
    ("complex_arithmetic", {"metadata": {"result": (0, -1)}}, ["-i", "0 - i", "-1.0i"], ["i", "", "-", "-1"]),
    ("complex_arithmetic", {"metadata": {"result": (7, 0)}}, ["7", "7.0 + 0i"], ["7i", "70"]),
    ("decimal_arithmetic", {"answer": "5.24713938208"}, ["5.24713938208", "5.247139382083"], ["5.247", "5.2471394", "nan"]),
    ("number_format", {"answer": "947865419.1689999"}, ["947,865,419.169", "9.47865419169e8"], ["947865419.17", "947865419"]),
    ("number_sorting", {"metadata": {"sorted_numbers": ["93.1", "-3.0"]}}, ["['93.1', '-3.0']", "[93.1, -3]"], ["['93.2', '-3.0']", "[NaN, NaN]", "['-3.0', '93.1']", "93.1"]),
    ("polynomial_equations", {"answer": "-0.5, 1.2727"}, ["1.2727, -0.5", "x = -0.5, x = 1.2728"], ["-0.5", "-0.5, 1.2727, 3", "-0.5, 1.2727, no", "", "0.5, 1.2727"]),
    ("polynomial_multiplication", {"answer": "6*x**2 - 5*x + 1", "metadata": {"polynomial_expr": "(2*x - 1)*(3*x - 1)"}}, ["1 - 5x + 6x^2", "6 * x**2 − 5*x + 1"], ["(2*x-1)*(3*x-1)", "6*x*x - 5*x + 1", "6*x**2 - 5*x", "6*x**2 - 2*x - 3*x + 1"]),
    ("polynomial_multiplication", {"answer": "6*x - 3", "metadata": {"polynomial_expr": "6*x - 3"}}, [], ["6*x - 3"]),
    ("pool_matrix", {"answer": "5.25 3.3333333\n1.0 2.0"}, ["5.25 3.33\n1 2", "5.25 3.33\n1.00 2.00\n"], ["5.25 3.3\n1 2", "5.25\n3.33\n1\n2", "5.25 3.33 1 2"]),
    ("prime_factorization", {"answer": "2 × 2 × 7"}, ["7 × 2 × 2", "2*2*7", "2 x 7 x 2"], ["2 × 14", "28", "1 × 2 × 2 × 7", "2^2 × 7", "two"]),
    ("fraction_simplification", {"metadata": {"simplified_numerator": 3, "simplified_denominator": 4}}, ["3/4", r"$\dfrac{3}{4}$", r"\frac{3}{4}"], ["6/8", "0.75", r"\frac{3}{4} or \frac{1}{2}", "3"]),
    ("time_intervals", {"answer": "18 days, 21:21:12", "metadata": {"task_type": "datetime"}}, ["18 days, 21:21:12", "18 days 21:21:12"], ["18 days", "18 days, 21:21", "18 days, 21:21:12 or 3", "1:" + "9" * 400]),
    ("time_intervals", {"answer": "34 days", "metadata": {"task_type": "date"}}, ["34", "34 days"], ["34 or 35", "35", "34 weeks", "34:00"]),
    ("time_intervals", {"answer": "06:09", "metadata": {"task_type": "time"}}, ["06:09", "6:09"], ["6:9", "05:69", "06:09:30", "6"]),
    ("knights_knaves", {"answer": "Zoey is a knight, and Riley is a knave."}, ["Riley is a knave and Zoey is a knight"], ["not Zoey is a knight, and Riley is a knave", "Zoey is a knight", "Zoey is a knight, Zoey is a knave, and Riley is a knave"]),
    ("n_queens", {"metadata": {"valid_answers": ["_ Q\nQ _", "Q _\n_ Q"]}}, ["Q _\n_ Q"], ["_ Q Q _", "[['Q', '_'], ['_', 'Q']]"]),
    ("simple_integration", {"answer": "x**3/3 - 2*x + C"}, ["x**3/3 - 2*x + C", "x^3/3 - 2x + K", "C - 2*x + x**3/3", "x**3/3 - 2*x"], ["x**2 - 2", "x**3/3 + C", "C", "Integral(x**2 - 2, x)", "x**3/3 - 2*x + C or 0"]),
    ("intermediate_integration", {"answer": "3*Integral(x**2*sin(3*x), x) + C"}, [], ["3*Integral(x**2*sin(3*x), x) + C"]),
    ("sentence_reordering", {"answer": "So it was."}, ["So it was.", "so it  was"], ["so was it.", "So it was. Or not.", "."]),
    ("survo", {"answer": "1 2\n3 4"}, ["1  2\n3 4"], ["not 1 2\n3 4", "1 2 3 4"]),
    ("calendar_arithmetic", {"answer": "-1"}, ["-1"], ["0", "10000", "1", "-2"]),
    ("gsm_symbolic", {"answer": "-5"}, ["-5", "-5 dollars"], ["5", "-5 or -6"]),
    ("chain_sum", {"answer": "1042"}, ["1042", "1,042", "x = 1042"], ["10,42", "1042 or 3", "1041+1", "[1042]", "Saturday = 1042", "1042 = 1042"]),
    ("word_sorting", {"answer": "a, b, c"}, ["a,b, c"], ["a, b, c, d", "a b c", "c, b, a"]),
    ("spell_backward", {"answer": "olleh"}, ["olleh", "Olleh"], ["ollehx", "o l l e h"]),
    ("advanced_geometry", {"metadata": {"task_type": "angle_measure", "angle_ABC_degrees": 46.24536426676835}}, ["46.25°", "46.245", "46.245°"], ["46.3", "46.25 or 47", "nan"]),
    ("advanced_geometry", {"metadata": {"task_type": "orthocenter", "ortho": ["-7/11", "4"]}}, ["(-0.636, 4.0)", "-7/11, 4"], ["(-0.636, 4.0), (1, 1)", "(-0.64, 4)", "-0.636"]),
    ("advanced_geometry", {"metadata": {"task_type": "incircle_radius", "incircle_radius_approx": 1.186461853204762}}, ["1.186", "1.1865"], ["1.19", "1.2"]),
    ("binary_matrix", {"answer": "0 1\n1 2"}, ["0 1\n1 2"], ["[[0, 1], [1, 2]]", "0 1 1 2"]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "entry", "right", "wrong"), REPAIRED_CASES)
def test_repaired_tasks(task: str, entry: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    assert [answer for answer in right if not is_right(task, answer, **entry)] == []
    assert [answer for answer in [*wrong, ""] if is_right(task, answer, **entry)] == []


NOTATION = "0123456789.,+-−*/×()[]{}\\ix^eE=:' \n\"dayskntoru"


@given(text=st.text(max_size=40) | st.text(NOTATION, max_size=40))
@pytest.mark.parametrize(("task", "entry"), [case[:2] for case in REPAIRED_CASES])
def test_judges_take_any_text(task: str, entry: dict[str, Any], text: str) -> None:
    assert isinstance(is_right(task, text, **entry), bool)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", ["kakurasu", "quantum_lock", "rubiks_cube", "sokoban", "tower_of_hanoi"])
def test_text_around_moves_is_not_passed_over(task: str) -> None:
    (problem,) = draw(task, 1)
    assert problem.accepts is not None
    for answer in (f"not {problem.reference_answer}", f"{problem.reference_answer} or 77"):
        assert not problem.accepts(answer)


def test_a_tower_is_moved_by_the_rules() -> None:
    rules = {"num_disks": 2, "num_pegs": 3, "start_peg": 1, "target_peg": 3, "solution_length": 3}
    moves = ["Move disk 1 from Peg 1 to Peg 2", "Move disk 2 from Peg 1 to Peg 3", "Move disk 1 from Peg 2 to Peg 3"]
    assert is_right("tower_of_hanoi", "\n".join(moves), metadata=rules)
    for wrong in (
        moves[:2],  # not there yet
        [moves[1], moves[0], moves[2]],  # the lower disk first
        ["Move disk 1 from Peg 1 to Peg 3", "Move disk 2 from Peg 1 to Peg 3"],  # on a smaller one
        ["Move disk 1 from Peg 1 to Peg 3", "Move disk 1 from Peg 3 to Peg 2", *moves[1:]],  # a move too many
        ["Move disk 1 from Peg 1 to Peg 4"],
    ):
        assert not is_right("tower_of_hanoi", "\n".join(wrong), metadata=rules)


@pytest.mark.parametrize(
    ("moves", "right"),
    [("RRD", True), ("R R\nD", True), ("RR", False), ("RRDU", True), ("RRDL", True), ("LRRD", False), ("RRRD", False), ("rrd", False), ("RRD!", False), ("", False)],
)  # fmt: skip
def test_boxes_are_pushed_by_the_rules(moves: str, right: bool) -> None:
    board = "+ + + + + +\n+ * @ - X +\n+ - - @ - +\n+ - - X - +\n+ + + + + +"
    assert is_right("sokoban", moves, metadata={"gamestr": board}) == right


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("3*x**2*y - 7", {(("x", 2), ("y", 1)): 3, (): -7}),
        ("-x + 2", {(("x", 1),): -1, (): 2}),
        ("0", {(): 0}),
        ("x*y*z", {(("x", 1), ("y", 1), ("z", 1)): 1}),
        ("", None), ("+", None), ("x +", None), ("x y", {(("x", 1), ("y", 1)): 1}), ("2*3*x", None), ("x*2", None),
        ("x + x", None), ("(x)", None), ("2*", None), ("*x", None), ("x**", None), ("x***2", None), ("x**2**3", None),
        ("1/2", None), ("x" * 3000, None), ("1" * 100, None),
    ],
)  # fmt: skip
def test_polynomials(text: str, terms: dict[Any, int] | None) -> None:
    assert polynomial(text) == terms


# --- All tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("library")
def test_an_item_that_the_library_cannot_make_is_passed_over() -> None:
    """In a maze that is all wall but for a cell there is no way, and most of these are."""
    source = ReasoningGymTask("maze", {"min_grid_size": 5, "max_grid_size": 5, "min_dist": 4}, split="all")
    found = [source.problem(index) for index in range(60)]
    assert None in found and any(problem is not None for problem in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*arcagi.*")  # a file that the library leaves open
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task: str) -> None:
    first, second = draw(task, 5, seed=3), draw(task, 5, seed=4)
    ids = [{problem.problem_id for problem in problems} for problems in (first, second)]
    assert len(ids[0] & ids[1]) <= 1
    assert len({problem.question for problem in first}) == len(ids[0])
    for problem in first:
        check = problem.accepts
        assert check is not None and check(problem.reference_answer) and check(problem.reference_answer), "twice"
        assert pickle.loads(pickle.dumps(problem)) == problem
        for answer in WORSE_THAN_WRONG:
            assert not check(answer) or answer.strip() == problem.reference_answer.strip()
    json.dumps([problem.info() for problem in first])
    assert hashlib.sha256(first[0].question.encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("part", range(8))
def test_no_task_depends_on_the_hash_seed(part: int) -> None:
    assert len(digests(8, TASKS[part::8])) == 1
