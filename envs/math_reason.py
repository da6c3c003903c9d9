"""Mathematical reasoning: generated problems with worked solutions, or the lines of a data set.

What is in this file: the five families of problems, the task that draws from them, and the environment ids' classes.
What is not: how text becomes tokens or how a reward is paid (``llmgym.core``, ``llmgym.rewards``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from operator import add, floordiv, mul, sub
from typing import Any, ClassVar, Literal

import numpy as np

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError
from llmgym.rewards.arithmetic import evaluate, numbers_used
from llmgym.tasks import DatasetTask, Problem, Task
from llmgym.vector import LanguageVectorEnv

Split = Literal["train", "test"]

#: One problem in ``TEST_SHARE`` belongs to the test split. Which one is decided by a hash of what the problem asks.
TEST_SHARE = 8
LEVELS = (1, 2, 3, 4, 5)
LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Draft:
    """A problem before a language and a wording are chosen.

    Attributes:
        key: What is asked, independent of wording; equal keys are the same problem. Decides the split.
        wording: Language -> ways to ask it.
        answer: The reference answer.
        steps: Language -> worked solution, one operation a line, no line end.
        shortcut: The same solution as a single line, without the operations in between.
        accepts: See :class:`llmgym.tasks.Problem`.
    """

    key: str
    wording: dict[str, tuple[str, ...]]
    answer: str
    steps: dict[str, tuple[str, ...]]
    shortcut: str
    accepts: Callable[[str], bool] | None = None


# ----------------------------------------------------------------------------------------------------- arithmetic


def _nonzero_places(number: int) -> list[int]:
    """Split a positive integer by place value: 4023 -> [4000, 20, 3]."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - 1 - i) for i, d in enumerate(digits) if d != "0"]


def _add_or_subtract(a: int, op: str, b: int) -> tuple[int, list[str]]:
    """Take ``b`` place by place: 347+285 is 347+200, 547+80, 627+5."""
    lines, value = [], a
    for part in _nonzero_places(b):
        result = value + part if op == "+" else value - part
        lines.append(f"{value}{op}{part}={result}")
        value = result
    return value, lines


def _multiply(a: int, b: int) -> tuple[int, list[str]]:
    """Multiply all places of ``a`` with all places of ``b``, then add up the partial products."""
    products = [(x, y, x * y) for x in _nonzero_places(a) for y in _nonzero_places(b)]
    if len(products) == 1:
        return a * b, [f"{a}*{b}={a * b}"]
    lines = [f"{x}*{y}={p}" for x, y, p in products]
    value = products[0][2]
    for _, _, product in products[1:]:
        lines.append(f"{value}+{product}={value + product}")
        value += product
    return value, lines


def _arithmetic(rng: random.Random, level: int) -> Draft:
    """Sums, differences, products (and from level 5 quotients) of numbers that grow with the level."""
    # (digits of a, digits of b) of sums and differences; the same of products
    sums, products = {
        1: ((2, 2), None),
        2: ((3, 3), (2, 1)),
        3: ((4, 4), (3, 1)),
        4: ((5, 5), (2, 2)),
        5: ((7, 7), (3, 2)),
    }[level]
    op = rng.choice("+-" if products is None else "+-*/" if level == 5 else "+-*")
    digits = sums if op in "+-" or products is None else products
    a, b = (rng.randrange(10 ** (n - 1) if n > 1 else 2, 10**n) for n in digits)
    if op == "-" and a < b:
        a, b = b, a
    if op == "/":  # exact by construction: take the product apart; long division is checked by multiplying back
        answer, lines = _multiply(a, b)
        a, answer = answer, a
        lines = [*lines, f"{a}/{b}={answer}"]
    else:
        answer, lines = _multiply(a, b) if op == "*" else _add_or_subtract(a, op, b)
    key = f"{min(a, b)}{op}{max(a, b)}" if op in "+*" else f"{a}{op}{b}"
    expression = f"{a}{op}{b}"
    return Draft(
        key=key,
        wording={
            "en": (f"What is {expression}?", f"Compute {expression}.", f"Calculate {expression}."),
            "zh": (f"{expression}等于多少？", f"计算{expression}。", f"请算出{expression}的结果。"),
        },
        answer=str(answer),
        steps=dict.fromkeys(LANGUAGES, tuple(lines)),
        shortcut=f"{expression}={answer}",
    )


# ----------------------------------------------------------------------------------------------------- expressions


def _expression(rng: random.Random, level: int) -> Draft:
    """Several operations with brackets, solved one operation a line, innermost first."""
    n_operations = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6}[level]
    largest = {1: 9, 2: 9, 3: 9, 4: 20, 5: 30}[level]
    limit = {1: 99, 2: 99, 3: 99, 4: 999, 5: 9999}[level]
    while True:
        lines: list[str] = []
        text, value, _ = _expression_tree(rng, n_operations, largest, limit, lines)
        if value is not None:
            break
    return Draft(
        key=text,
        wording={
            "en": (f"Evaluate {text}.", f"What is the value of {text}?"),
            "zh": (f"求{text}的值。", f"计算{text}。"),
        },
        answer=str(value),
        steps=dict.fromkeys(LANGUAGES, tuple(lines)),
        shortcut=f"{text}={value}",
    )


def _expression_tree(
    rng: random.Random, n_operations: int, largest: int, limit: int, lines: list[str]
) -> tuple[str, int | None, int]:
    """A random expression: its text, its value (``None``: a part left ``[0, limit]``), its outermost precedence."""
    if n_operations == 0:
        number = rng.randrange(1, largest + 1)
        return str(number), number, 3
    op = rng.choice("+-*")
    left_operations = rng.randrange(n_operations)
    left, a, left_precedence = _expression_tree(rng, left_operations, largest, limit, lines)
    if a is None:
        return "", None, 0
    right, b, right_precedence = _expression_tree(rng, n_operations - 1 - left_operations, largest, limit, lines)
    if b is None:
        return "", None, 0
    precedence = 2 if op == "*" else 1
    if left_precedence < precedence:
        left = f"({left})"
    if right_precedence <= precedence:  # equal too: then the text has one reading, from left to right
        right = f"({right})"
    value = a + b if op == "+" else a - b if op == "-" else a * b
    # One operation a line has to be one that can be done in the head: no product of two large numbers.
    if not 0 <= value <= limit or (op == "*" and min(a, b) > 9):
        return "", None, 0
    lines.append(f"{a}{op}{b}={value}")
    return f"{left}{op}{right}", value, precedence


# ---------------------------------------------------------------------------------------------------- word problems


def _words(rng: random.Random, level: int) -> Draft:
    """Everyday questions with as many operations as the level."""
    return rng.choice(_STORIES[min(level, 3)])(rng, level)


_OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul, "/": floordiv}


def _story(name: str, en: str, zh: str, steps: Sequence[tuple[str, str, str]], shortcut: str, **numbers: int) -> Draft:
    """Fill a story.

    Args:
        name: Of the story.
        en: English wording, with a place for each number.
        zh: Chinese wording.
        steps: English label, Chinese label and one operation on two values, each a number or ``r1``, ``r2``: the
            results of earlier steps. Divisions have no remainder.
        shortcut: The whole solution as one expression.
        numbers: Single-letter name -> value.
    """
    values = dict(numbers)
    lines: dict[str, list[str]] = {"en": [], "zh": []}
    result = 0
    for i, (label_en, label_zh, operation) in enumerate(steps):
        left, op, right = operation.split()
        a, b = values[left], values[right]
        values[f"r{i + 1}"] = result = _OPERATIONS[op](a, b)
        lines["en"].append(f"{label_en}: {a}{op}{b}={result}")
        lines["zh"].append(f"{label_zh}：{a}{op}{b}={result}")
    return Draft(
        key=f"{name}:" + ",".join(map(str, numbers.values())),
        wording={"en": (en.format(**numbers),), "zh": (zh.format(**numbers),)},
        answer=str(result),
        steps={language: tuple(of) for language, of in lines.items()},
        shortcut=f"{shortcut.format(**numbers)}={result}",
    )


def _big(rng: random.Random, level: int) -> int:
    """A quantity: round for the easy levels, any number for the hard ones."""
    return rng.randrange(3, 13) * 10 if level < 4 else rng.randrange(31, 130)


def _distance(rng: random.Random, level: int) -> Draft:
    return _story(
        "distance",
        "A train travels at {v} km/h for {t} hours. How many km does it go?",
        "一列火车以每小时{v}公里的速度行驶{t}小时，一共行驶多少公里？",
        [("distance", "路程", "v * t")],
        "{v}*{t}",
        v=_big(rng, level) + rng.choice((0, 5)),
        t=rng.randrange(2, 10),
    )


def _speed(rng: random.Random, level: int) -> Draft:
    t = rng.randrange(2, 10)
    return _story(
        "speed",
        "A car goes {d} km in {t} hours. What is its speed in km/h?",
        "一辆汽车{t}小时行驶了{d}公里，每小时行驶多少公里？",
        [("speed", "速度", "d / t")],
        "{d}/{t}",
        d=t * _big(rng, level),
        t=t,
    )


def _cost(rng: random.Random, level: int) -> Draft:
    return _story(
        "cost",
        "A pen costs {p} yuan. How much do {n} pens cost?",
        "一支笔{p}元，买{n}支笔要多少元？",
        [("cost", "总价", "p * n")],
        "{p}*{n}",
        p=rng.randrange(3, 26),
        n=rng.randrange(3, 10),
    )


def _left(rng: random.Random, level: int) -> Draft:
    total = rng.randrange(30, 100)
    return _story(
        "left",
        "There are {a} apples. {b} are eaten. How many are left?",
        "有{a}个苹果，吃掉{b}个，还剩多少个？",
        [("left", "剩下", "a - b")],
        "{a}-{b}",
        a=total,
        b=rng.randrange(11, total - 5),
    )


def _share(rng: random.Random, level: int) -> Draft:
    n = rng.randrange(3, 10)
    return _story(
        "share",
        "{a} apples are shared equally by {n} children. How many does each get?",
        "把{a}个苹果平均分给{n}个孩子，每人分到多少个？",
        [("each", "每人", "a / n")],
        "{a}/{n}",
        a=n * rng.randrange(4, 25),
        n=n,
    )


def _change(rng: random.Random, level: int) -> Draft:
    p, n = rng.randrange(3, 16), rng.randrange(2, 7)
    return _story(
        "change",
        "A pen costs {p} yuan. Tom buys {n} pens and pays {m} yuan. How much change does he get?",
        "一支笔{p}元，小明买了{n}支，付了{m}元，应找回多少元？",
        [("cost", "总价", "p * n"), ("change", "找回", "m - r1")],
        "{m}-{p}*{n}",
        p=p,
        n=n,
        m=100 if level < 4 else rng.randrange(p * n + 1, 200),
    )


def _two_goods(rng: random.Random, level: int) -> Draft:
    return _story(
        "two goods",
        "A pen costs {p} yuan and a book costs {q} yuan. How much do {n} pens and one book cost?",
        "一支笔{p}元，一本书{q}元，买{n}支笔和一本书要多少元？",
        [("pens", "笔", "p * n"), ("total", "一共", "r1 + q")],
        "{p}*{n}+{q}",
        p=rng.randrange(3, 16),
        n=rng.randrange(2, 8),
        q=rng.randrange(12, 60),
    )


def _remaining_way(rng: random.Random, level: int) -> Draft:
    v, t = _big(rng, level), rng.randrange(2, 7)
    return _story(
        "remaining way",
        "A town is {d} km away. A bus drives at {v} km/h for {t} hours. How many km remain?",
        "两地相距{d}公里，汽车以每小时{v}公里的速度行驶了{t}小时，还剩多少公里？",
        [("distance", "路程", "v * t"), ("left", "剩下", "d - r1")],
        "{d}-{v}*{t}",
        d=v * t + rng.randrange(11, 100),
        v=v,
        t=t,
    )


def _share_rest(rng: random.Random, level: int) -> Draft:
    n, b = rng.randrange(3, 9), rng.randrange(5, 30)
    return _story(
        "share the rest",
        "There are {a} apples. {b} are eaten and the rest is shared equally by {n} children. How many does each get?",
        "有{a}个苹果，吃掉{b}个，其余平均分给{n}个孩子，每人分到多少个？",
        [("left", "剩下", "a - b"), ("each", "每人", "r1 / n")],
        "({a}-{b})/{n}",
        a=b + n * rng.randrange(3, 15),
        b=b,
        n=n,
    )


def _two_goods_change(rng: random.Random, level: int) -> Draft:
    return _story(
        "two goods, change",
        "A pen costs {p} yuan and a book costs {q} yuan. Tom buys {n} pens and one book and pays {m} yuan. "
        "How much change does he get?",
        "一支笔{p}元，一本书{q}元，小明买了{n}支笔和一本书，付了{m}元，应找回多少元？",
        [("pens", "笔", "p * n"), ("total", "一共", "r1 + q"), ("change", "找回", "m - r2")],
        "{m}-{p}*{n}-{q}",
        p=rng.randrange(3, 13),
        n=rng.randrange(2, 8),
        q=rng.randrange(12, 60),
        m=200,
    )


def _two_legs(rng: random.Random, level: int) -> Draft:
    return _story(
        "two legs",
        "A bus drives at {v} km/h for {t} hours, then at {w} km/h for {u} hours. How many km does it go?",
        "汽车先以每小时{v}公里行驶{t}小时，再以每小时{w}公里行驶{u}小时，一共行驶多少公里？",
        [("first", "先", "v * t"), ("then", "再", "w * u"), ("total", "一共", "r1 + r2")],
        "{v}*{t}+{w}*{u}",
        v=_big(rng, level),
        t=rng.randrange(2, 7),
        w=_big(rng, level),
        u=rng.randrange(2, 7),
    )


def _boxes(rng: random.Random, level: int) -> Draft:
    n = rng.randrange(2, 8)
    boxes, each = n * rng.randrange(2, 6), rng.randrange(2, 10)
    return _story(
        "boxes",
        "{k} boxes hold {c} apples each. {b} apples are bad and the rest is shared equally by {n} children. "
        "How many does each get?",
        "有{k}箱苹果，每箱{c}个，其中{b}个坏了，其余平均分给{n}个孩子，每人分到多少个？",
        [("apples", "苹果", "k * c"), ("left", "剩下", "r1 - b"), ("each", "每人", "r2 / n")],
        "({k}*{c}-{b})/{n}",
        k=boxes,
        c=each,
        b=n * rng.randrange(1, boxes * each // n),
        n=n,
    )


_STORIES: dict[int, tuple[Callable[[random.Random, int], Draft], ...]] = {
    1: (_distance, _speed, _cost, _left, _share),
    2: (_change, _two_goods, _remaining_way, _share_rest),
    3: (_two_goods_change, _two_legs, _boxes),
}


# -------------------------------------------------------------------------------------------------------- equations


def _linear(a: int, b: int) -> str:
    """``a*x + b`` as it is written: 3x+5, x-2, 4x."""
    return ("" if a == 1 else str(a)) + "x" + (f"{b:+d}" if b else "")


def _undo_constant(b: int, right: int) -> tuple[list[str], int]:
    """Bring the constant ``b`` of the left side to the right."""
    if b == 0:
        return [], right
    op = "-" if b > 0 else "+"
    return [f"{right}{op}{abs(b)}={right - b}"], right - b


def _divide(right: int, a: int) -> list[str]:
    return [f"{right}/{a}={right // a}"] if a != 1 else []


def _equation(rng: random.Random, level: int) -> Draft:
    """Linear equations in one unknown with an integer solution."""
    x = rng.randrange(2, {1: 50, 2: 20, 3: 13, 4: 20, 5: 30}[level])
    if level == 1:
        a, b = rng.choice(((1, rng.randrange(2, 50)), (1, -rng.randrange(1, x + 1)), (rng.randrange(2, 10), 0)))
    else:
        a, b = rng.randrange(2, 10), rng.choice((1, -1)) * rng.randrange(1, 20 if level < 4 else 60)
    lines: list[str] = []
    if level <= 2:
        left, right = _linear(a, b), str(a * x + b)
        if a * x + b < 0:
            return _equation(rng, level)
        constants, rest = _undo_constant(b, a * x + b)
        lines = [*constants, *_divide(rest, a)]
        moved = f"{a * x + b}{-b:+d}" if b else f"{a * x}"
        shortcut = f"{moved}={x}" if a == 1 else f"({moved})/{a}={x}" if b else f"{moved}/{a}={x}"
    elif level == 4:
        left, right = f"{a}({_linear(1, b)})", str(a * (x + b))
        if x + b < 0:
            return _equation(rng, level)
        lines = [f"{a * (x + b)}/{a}={x + b}", *_undo_constant(b, x + b)[0]]
        shortcut = f"{a * (x + b)}/{a}{-b:+d}={x}"
    else:  # the unknown on both sides
        a = rng.randrange(3, 10 if level == 3 else 20)
        c = rng.randrange(1, a)
        d = a * x + b - c * x
        if d - b < 0 or d < 0:
            return _equation(rng, level)
        left, right = _linear(a, b), _linear(c, d)
        constants, rest = _undo_constant(b, d)
        lines = [f"{a}-{c}={a - c}", *constants, *_divide(rest, a - c)]
        shortcut = f"({d}{-b:+d})/({a}-{c})={x}"
    text = f"{left}={right}"
    return Draft(
        key=text,
        wording={
            "en": (f"Solve {text} for x.", f"If {text}, what is x?"),
            "zh": (f"解方程{text}。", f"已知{text}，求x。"),
        },
        answer=str(x),
        steps=dict.fromkeys(LANGUAGES, tuple(lines)),
        shortcut=shortcut,
    )


# ----------------------------------------------------------------------------------------------------- make a target


def makes_target(answer: str, numbers: tuple[int, ...], target: int) -> bool:
    """Whether ``answer`` is an expression that uses each of ``numbers`` once and equals ``target``.

    >>> makes_target("3*5-2", (2, 3, 5), 13), makes_target("13", (2, 3, 5), 13)
    (True, False)
    """
    used = numbers_used(answer)
    return used is not None and sorted(used) == sorted(numbers) and evaluate(answer) == target


@dataclass(frozen=True, slots=True)
class MakesTarget:
    """:func:`makes_target` for one problem; equal where the problems are (a ``functools.partial`` is not)."""

    numbers: tuple[int, ...]
    target: int

    def __call__(self, answer: str) -> bool:
        """Whether the answer makes the target."""
        return makes_target(answer, self.numbers, self.target)


def _target(rng: random.Random, level: int) -> Draft:
    """Make a target from given numbers, each used once. Many answers are right; a check decides."""
    product_of_two, count = {1: (False, 3), 2: (True, 3), 3: (False, 4), 4: (True, 4), 5: (True, 5)}[level]
    numbers = [rng.randrange(2, 10 if product_of_two else 20) for _ in range(count)]
    if len(set(numbers)) < count:
        return _target(rng, level)
    negative = [rng.random() < 0.4 for _ in range(count)]
    if product_of_two:
        factors = tuple(sorted(rng.sample(range(count), 2)))
        target, expression, steps = _product_and_sum(numbers, factors, negative)
    else:
        target, expression, steps = _signed_sum(numbers, negative)
    if target <= 0:
        return _target(rng, level)
    listed = [str(n) for n in numbers]
    operations = "+ - *" if product_of_two else "+ -"
    return Draft(
        key=f"{','.join(map(str, sorted(numbers)))}->{target}",
        wording={
            "en": (f"Make {target} from {', '.join(listed)} with {operations}, using each number once.",),
            "zh": (f"用{'、'.join(listed)}各一次，通过{operations}得到{target}。",),
        },
        answer=expression,
        steps=dict.fromkeys(LANGUAGES, tuple(steps)),
        shortcut=f"{expression}={target}",
        accepts=MakesTarget(tuple(numbers), target),
    )


def _signed(terms: Sequence[str], negative: Sequence[bool]) -> str:
    """Join terms with their signs, a positive one first."""
    order = sorted(range(len(terms)), key=lambda i: negative[i])  # stable: keeps the order among equals
    text = "".join(("-" if negative[i] else "+") + terms[i] for i in order)
    return text.removeprefix("+")


def _signed_sum(numbers: list[int], negative: list[bool]) -> tuple[int, str, list[str]]:
    """Signs alone: the sum of all exceeds the target by twice what has to be subtracted."""
    total = sum(numbers)
    subtracted = sum(n for n, minus in zip(numbers, negative, strict=True) if minus)
    target = total - 2 * subtracted
    everything = "+".join(map(str, numbers))
    expression = _signed([str(n) for n in numbers], negative)
    steps = [f"{everything}={total}"]
    if subtracted:
        steps += [f"{total}-{target}={2 * subtracted}", f"{2 * subtracted}/2={subtracted}", f"{expression}={target}"]
    return target, expression, steps


def _product_and_sum(numbers: list[int], factors: tuple[int, ...], negative: list[bool]) -> tuple[int, str, list[str]]:
    """One product, the others added or subtracted: try the products in order until the rest fits."""
    others = [i for i in range(len(numbers)) if i not in factors]
    product = numbers[factors[0]] * numbers[factors[1]]
    target = product + sum(-numbers[i] if negative[i] else numbers[i] for i in others)
    terms = [f"{numbers[factors[0]]}*{numbers[factors[1]]}", *(str(numbers[i]) for i in others)]
    expression = _signed(terms, [False, *(negative[i] for i in others)])
    steps = []
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            tried = numbers[i] * numbers[j]
            steps.append(f"{numbers[i]}*{numbers[j]}={tried}")
            larger, smaller = max(target, tried), min(target, tried)
            steps.append(f"{larger}-{smaller}={larger - smaller}")
            rest = [numbers[k] for k in range(len(numbers)) if k not in (i, j)]
            if (i, j) == factors or (len(rest) == 1 and abs(target - tried) == rest[0]):
                if (i, j) != factors:  # an earlier product fits as well
                    sign = "+" if target > tried else "-"
                    expression = f"{numbers[i]}*{numbers[j]}{sign}{rest[0]}"
                return target, expression, [*steps, f"{expression}={target}"]
    raise AssertionError("the product that made the target is among those tried")


# ------------------------------------------------------------------------------------------------------------- task

FAMILIES: dict[str, Callable[[random.Random, int], Draft]] = {
    "arithmetic": _arithmetic,
    "expression": _expression,
    "word": _words,
    "equation": _equation,
    "target": _target,
}


def split_of(family: str, key: str) -> Split:
    """The split that a problem belongs to, whatever its language and wording: decided by a hash of what it asks."""
    digest = blake2b(f"{family}:{key}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


@lru_cache(maxsize=1024)  # the slots of a group draw the same numbers, one after the other
def _draw(
    seed: int, split: Split, families: tuple[str, ...], levels: tuple[int, ...], languages: tuple[str, ...]
) -> tuple[Problem, str]:
    """One problem of the split, and its solution as a single line."""
    stream = random.Random(seed)
    while True:
        family, level, language = stream.choice(families), stream.choice(levels), stream.choice(languages)
        draft = FAMILIES[family](stream, level)
        if split_of(family, draft.key) == split:
            break
    question = stream.choice(draft.wording[language])
    problem = Problem(
        question=question,
        reference_answer=draft.answer,
        problem_id=f"{family}-{level}-{language}:{question}",
        family=family,
        level=level,
        language=language,
        gold_reasoning="".join(f"{line}\n" for line in draft.steps[language]),
        accepts=draft.accepts,
    )
    return problem, draft.shortcut


def format_response(reasoning: Iterable[str], answer: str) -> str:
    """A response in the format that the format reward asks for, each reasoning step closed by a line end."""
    return "<think>" + "".join(f"{line}\n" for line in reasoning) + f"</think><answer>{answer}</answer>"


@dataclass(frozen=True)
class MathTask:
    """Generated problems of one split.

    Args:
        split: ``"train"`` or ``"test"``. A problem is in one of them by a hash of what it asks, so they cannot overlap.
        families: Names from ``FAMILIES``, drawn evenly.
        level: Difficulty from 1 to 5, or several, drawn evenly.
        language: ``"en"``, ``"zh"`` or several, drawn evenly.
    """

    split: Split = "train"
    families: Sequence[str] = tuple(FAMILIES)
    level: int | Sequence[int] = (2, 3)
    language: str | Sequence[str] = LANGUAGES
    replies: ClassVar[bool] = False
    _choices: tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the choices once, so that drawing a problem need not."""
        if self.split not in ("train", "test"):
            raise InvalidOptionError(f"Expected `split` to be 'train' or 'test', actual: {self.split!r}.")
        families = (self.families,) if isinstance(self.families, str) else tuple(self.families)
        levels = (self.level,) if isinstance(self.level, int) else tuple(self.level)
        languages = (self.language,) if isinstance(self.language, str) else tuple(self.language)
        for name, given, known in (
            ("families", families, tuple(FAMILIES)),
            ("level", levels, LEVELS),
            ("language", languages, LANGUAGES),
        ):
            wrong = [item for item in given if item not in known]
            if wrong or not given:
                raise InvalidOptionError(
                    f"Expected `{name}` to be one or more of {', '.join(map(repr, known))}, actual: {list(given)}."
                )
        object.__setattr__(self, "_choices", (families, levels, languages))

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw one problem of the split."""
        return self.sample_with_shortcut(rng)[0]

    def sample_with_shortcut(self, rng: np.random.Generator) -> tuple[Problem, str]:
        """Draw one problem, and with it its solution as a single line (to write supervised examples from)."""
        # One draw from NumPy's generator, the rest from Python's, which is several times faster for single numbers.
        return _draw(int(rng.integers(0, 2**63)), self.split, *self._choices)

    def reply(self, problem: Problem, transcript: Any) -> str | None:
        """Nothing is written by the environment: the episode ends with the agent's turn."""
        return None


def demonstrations(
    task: MathTask, *, seed: int, terse: float = 0.9, short: float = 0.03
) -> Iterator[tuple[Problem, str]]:
    """Endless problems, each with a right response: what the shipped base model was trained on.

    A response is *terse* (no reasoning), *short* (the solution as a single line, several operations in one go) or
    *full* (one small operation a line).

    Args:
        task: Where problems come from.
        seed: Fixes the sequence.
        terse: Share of terse responses.
        short: Share of short ones; the rest is full.
    """
    rng, styles = np.random.default_rng((seed, 1)), random.Random(seed)
    while True:
        problem, shortcut = task.sample_with_shortcut(rng)
        (style,) = styles.choices(("terse", "short", "full"), (terse, short, 1 - terse - short))
        reasoning = {"terse": (), "short": (shortcut,), "full": problem.gold_reasoning.splitlines()}[style]
        yield problem, format_response(reasoning, problem.reference_answer)


# ------------------------------------------------------------------------------------------------------ environments


def _task(
    split: str | None,
    families: Sequence[str] | None,
    level: int | Sequence[int] | None,
    language: str | Sequence[str] | None,
    dataset: str | None,
    question_field: str | None,
    answer_field: str | None,
) -> Task:
    """Generated problems, or those of a data set."""
    named = {"question_field": question_field, "answer_field": answer_field}
    fields = {name: value for name, value in named.items() if value is not None}
    generated = {"families": families, "level": level, "language": language}
    given = {name: value for name, value in generated.items() if value is not None}
    if dataset is None:
        if fields:
            raise InvalidOptionError(
                f"Expected `question_field` and `answer_field` with `dataset` only, actual: {fields} without one. "
                "Leave them out, or name the `dataset`."
            )
        return MathTask(split=split, **given)  # type: ignore[arg-type]  # it checks what it is given
    if families is not None or level is not None or not isinstance(language, str | None):
        raise InvalidOptionError(
            f"Expected no `families` or `level`, and a single `language`, with `dataset={dataset!r}`, actual: {given}. "
            "They choose among generated problems: leave them out."
        )
    return DatasetTask(dataset, split=split, language=language or "en", **fields)


class MathReasonEnv(LanguageEnv):
    """Mathematical reasoning with answers that can be checked.

    ## Description
    The agent reads a problem and writes a response: its reasoning between `<think>` and `</think>`, one step a line,
    and its answer between `<answer>` and `</answer>`. Problems are generated in five families, in English and Chinese:
    multi-digit arithmetic, expressions solved one operation a line, word problems, linear equations in one unknown, and
    making a target from given numbers (where many answers are right). Or they come from a file or the hub.

    ## Action Space
    `action_unit="token"`: `Discrete(vocab_size)`, the id of the next token. `"step"`: a text, the next reasoning step.
    `"response"`: a text, the whole response. The same text leads to the same state and the same reward in all three.

    ## Observation Space
    `"token"`: `Dict(input_ids=Box(0, vocab_size - 1, (W,), int32), attention_mask=Box(0, 1, (W,), int8))` with
    `W = max_prompt_tokens + max_new_tokens`, padded on the right. `"step"` and `"response"`: the text so far.

    ## Starting State
    The prompt of a problem drawn from the split. No problem is in both splits: a hash of what is asked, independent of
    language and wording, decides where it belongs.

    ## Rewards
    A weighted sum of named parts, by default `{"correctness": 1.0}`: 1 at the end of an episode whose answer is right.
    Others: `format`, `process`, `length`, `language`. See `llmgym.rewards`.

    ## Episode End
    Terminated by the end token or a stop string; truncated by `max_new_tokens`, `max_steps` or the width of the state.

    ## Information
    `reset`: `problem_id`, `family`, `level`, `language`, and `reference_answer` only where asked for.
    `step`: `reward_components`, at the end `stop_reason` and `reward_details`.
    Both: `n_reasoning_steps`, the reasoning steps closed so far (one that the end leaves open is not counted).

    ## Arguments
    `split="train"`: or `"test"`; with `dataset` also `"all"`. `families=None`: all, or names of some.
    `level=(2, 3)`: one or several from 1 to 5. `language=("en", "zh")`: one or both.
    `dataset=None`: path of a JSONL(.gz) file with `question` and `answer` fields, or a name on the Hugging Face hub.
    `question_field=None`, `answer_field=None`: other names of its two fields.
    And those of every llmgym environment: see `llmgym.core.EnvOptions`.

    ## References
    DeepSeek-AI, "DeepSeek-R1", arXiv:2501.12948 (the format and the rule-based rewards).

    ## Version History
    v0: first version.
    """

    def __init__(
        self,
        *,
        split: str | None = "train",
        families: Sequence[str] | None = None,
        level: int | Sequence[int] | None = None,
        language: str | Sequence[str] | None = None,
        dataset: str | None = None,
        question_field: str | None = None,
        answer_field: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_task(split, families, level, language, dataset, question_field, answer_field), **options)


class MathReasonVectorEnv(LanguageVectorEnv):
    """The native vector environment of :class:`MathReasonEnv`: the same arguments, and ``num_envs``."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        split: str | None = "train",
        families: Sequence[str] | None = None,
        level: int | Sequence[int] | None = None,
        language: str | Sequence[str] | None = None,
        dataset: str | None = None,
        question_field: str | None = None,
        answer_field: str | None = None,
        **options: Any,
    ) -> None:
        task = _task(split, families, level, language, dataset, question_field, answer_field)
        super().__init__(task, num_envs, **options)
