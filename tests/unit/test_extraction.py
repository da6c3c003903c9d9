"""Which words of a response are its answer, and which rule says so."""

from __future__ import annotations

import time

import pytest

from llmgym.errors import InvalidOptionError
from llmgym.rewards import verify
from llmgym.rewards.extraction.rules import MAX_RESPONSE, RULES, Extraction, extract, extract_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>1\n<answer>9</answer></think>\n<answer> 42 </answer>", "42"),
        ("<answer>41</answer> no, <answer>42</answer>", "42"),
        ("<answer>x</answer> 7", "x"),
        ("<answer><answer>42</answer></answer>", "42"),
        ("<answer>\\boxed{42}</answer>", "42"),
        ("<answer>We add them up, and so the answer is 42 apples.</answer>", "42 apples"),
        ("<answer>a longer sentence about north</answer>", "a longer sentence about north"),
        ("<answer>42</answer> It was in the box: \\boxed{41}", "42"),
        ("<answer>2</answer> and <answer>3</answer>", "2, 3"),
        ("<answer>It is 42.</answer>", "42"),
        ("<answer>The answer is 42</answer>", "42"),
        ("<answer>July 4</answer>", "July 4"),
        ("<answer>the number after 42</answer>", "the number after 42"),
    ],
)
def test_answer_tags(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "answer_tag")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so \\boxed{\\frac{3}{4}}.", "\\frac{3}{4}"),
        ("so $\\boxed{\\{1, 2\\}}$.", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{1}, then much later on, after more thought, \\boxed{2}", "2"),
        ("\\boxed{41}. Wait, \\boxed{42}", "42"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("so \\boxed 5.", "5"),
        ("$\\boxed{42}$ and again $\\boxed{42}$", "42"),
        ("\\boxed{2}, \\boxed{3}, and $\\boxed{5}$", "2, 3, 5"),
        ("\\boxed{2} or \\boxed{3}", "2 or 3"),
        ("$\\boxed{2}$ or $\\boxed{3}$", "2 or 3"),
        ("$\\boxed{x=2}$ 和 $\\boxed{x=3}$", "x=2, x=3"),
        ("\\boxed{1} \\boxed{2}", "1, 2"),
        ("<think>\\boxed{41}</think> \\boxed{42}", "42"),
        ("\\boxed{42}. So the answer is 42 apples.", "42"),
        ("\\boxed{42}. Check: 2 * 21 = 42, and 17 is not needed.", "42"),
        ("Put it into \\boxed{}: \\boxed{42}", "42"),
        ("\\boxed{2}\\text{ or }\\boxed{3}", "2 or 3"),
        ("\\boxed{\\text{So the answer is } 9}", "9"),
    ],
)
def test_boxes(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "boxed")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("72/2=36\n#### 36", "36"),
        ("72/2=36\n#### 36\n\n", "36"),
        ("so 36 #### 36", "36"),
        ("#### 41\n#### 42", "42"),
        ("#### \\frac{1}{2}", "\\frac{1}{2}"),
        ("#### north west", "north west"),
        ("#### 42\nThat is it.", "42"),
        ("we add\n#### 1. First, we add\n#### Answer: 42", "42"),
    ],
)
def test_hashes(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "hashes")


@pytest.mark.parametrize("response", ["#### Step 4\nwe get 7", "#### 1. Add\n3 + 4 = 7", "##### 5\nso it comes to 7"])
def test_a_heading_is_no_answer(response: str) -> None:
    assert extract(response) == Extraction("7", "last")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Hence the answer is 42 apples. Check: 40+2.", "42 apples"),
        ("**Answer:** 42", "42"),
        ("**Answer**: 42", "42"),
        ("The final answer is **42**.", "42"),
        ("The final answer is **42** dollars.", "42 dollars"),
        ("### Final Answer\n\n42", "42"),
        ("**Final Answer**\n\n$$\n\\frac{1}{2}\n$$", "$$\n\\frac{1}{2}\n$$"),
        ("The answer is:\n\n\\[ x = 5. \\]", "\\[ x = 5. \\]"),
        ("The final answer is:\n```\n42\n```", "42"),
        ("The answer to the question of how many are left is 42.", "42"),
        ("The answer is 0.75. So there.", "0.75"),
        ("The answer is 42, since 6*7 = 42.", "42"),
        ("The answer is 42 because 6*7 = 42.", "42"),
        ("The answer is 42, not 41.", "42"),
        ("The answer is $x = 2$ or $x = 3$.", "$x = 2$ or $x = 3$"),
        ("The answer is x=2; x=3.", "x=2; x=3"),
        ("The answer is 41 or 42.", "41 or 42"),
        ("The answer is about 42.", "about 42"),
        ("The answer is that John has 42 apples.", "42 apples"),
        ("The answer is the double of 42.", "the double of 42"),
        ("Answer: he has 5 apples left.", "5 apples"),
        ("Answer: (C) 12", "(C) 12"),
        ("The answer is option (C).", "(C)"),
        ("The correct option is (B).", "(B)"),
        ("The answer is 8 sq. ft. in all. Nice.", "8 sq. ft. in all"),
        ("The answer is $5. It costs $6 more.", "$5"),
        ("The answer is 41. No: the answer is 42.", "42"),
        ("(C) is the correct answer.", "(C)"),
        ("So 42 is the answer.", "42"),
        ("If x = 2, the answer is 42.", "42"),
    ],
)
def test_phrases(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "phrase")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("所以答案是４２。", "42"),
        ("答案是四十二。", "四十二"),
        ("答案应该是：5 个", "5 个"),
        ("答案是42,因为6*7=42。", "42"),
        ("故选：C", "C"),
        ("因此，选择 D 选项", "D"),
        ("答：小明有42个苹果。", "42个苹果"),
        ("综上所述，答案为 5 个", "5 个"),
        ("Die richtige Antwort lautet also 42.", "42"),
        ("La réponse finale est : 42.", "42"),
        ("La respuesta correcta es 42.", "42"),
        ("La risposta è 42.", "42"),
        ("A resposta final é 42.", "42"),
        ("Таким образом, ответ равен 42.", "42"),
        ("Ответ: 42", "42"),
        ("よって、答えは42です。", "42"),
        ("따라서 정답은 42입니다.", "42"),
    ],
)
def test_phrases_of_other_languages(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "phrase")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("17*23", "17*23"),
        ("north", "north"),
        ("x = 5", "x = 5"),
        ("x = 2, y = 3", "x = 2, y = 3"),
        ("a = 0", "a = 0"),
        ("ab+2a+5b+10", "ab+2a+5b+10"),
        ("No, because 3 is odd.", "No"),
        ("There is no solution.", "no solution"),
        ("不到42", "不到 42"),
        ("答案大约是42", "大约 42"),
        ("(3, 4)", "(3, 4)"),
        ("$\\frac{1}{2}$", "$\\frac{1}{2}$"),
        ("It is 0.75.", "0.75"),
        ("It is north.", "north"),
        ("He has 5-3=2", "2"),
        ("所以x=5", "x=5"),
        ("There are twelve apples.", "twelve apples"),
        ("It costs about 42 dollars.", "about 42 dollars"),
        ("He earned 5 million dollars.", "5 million dollars"),
        ("It is the square of 42.", "square of 42"),
        ("We get a total of 42.", "42"),
        ("A: 5 dozen", "5 dozen"),
        ("The solutions are $x=2$ and $x=3$.", "$x=2$ and $x=3$"),
        ("Thus x \\in (2, 3].", "x \\in (2, 3]"),
        ("so we get x + 2 = 42", "x + 2 = 42"),
        ("Let S = \\pi r^2 = 12 then.", "S = 12"),
        ("42</answer>", "42"),
    ],
)
def test_short_responses(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "short")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("12*3=36\n36+5=41\nA: 41", "41"),
        ("first 3\n3*5-2", "3*5-2"),
        ("We add all of the numbers and in all that makes -1,250.50 dollars, which is a lot", "-1,250.50"),
        ("It takes 2*1/2=<<2*1/2=1.0>>1 bolt of white fiber, so together it takes 2+1=<<2+1=3>>3 bolts of fiber", "3 bolts"),
        ("The train needs 12 minutes.\nSo there are ten.", "ten"),
        ("Hence\n\\begin{align*}\nx &= 3 + 2 \\\\\n&= 5\n\\end{align*}", "5"),
        ("Therefore\n\\[\nx = 5\n\\]", "x = 5"),
        ("After all of these many steps we see that the result has to be \\frac{1}{2}.", "\\frac{1}{2}"),
        ("We are done with all that work, and the sets that remain are $x=2$ and $x=3$.", "$x=2$ and $x=3$"),
        ("```\n42\n```", "42"),
        ("Step 1: 40+2=42\nStep 2: done", "42"),
        ("After a little algebra, what remains in the end is the vector $(1+x, 2x)$.", "(1+x, 2x)"),
        ("After a little algebra, what remains in the end is the polynomial $x²+2x+1$.", "x²+2x+1"),
    ],
)  # fmt: skip
def test_last_values(response: str, answer: str) -> None:
    assert extract(response) == Extraction(answer, "last")


@pytest.mark.parametrize(
    ("response", "rule", "reason"),
    [
        ("", None, "no_answer"),
        (" \n", None, "no_answer"),
        ("a longer response that never comes to any kind of number, whatever one does", None, "no_answer"),
        ("<think>6*7 = 42", None, "unclosed_thinking"),
        ("<think>a</think> <think>42", None, "unclosed_thinking"),
        ("<think>the answer is 42</think>", None, "no_answer"),
        ("<answer>42", "answer_tag", "unclosed_answer_tag"),
        ("<answer>4</answer> <answer>42", "answer_tag", "unclosed_answer_tag"),
        ("<answer></answer> 42", "answer_tag", "empty_answer"),
        ("<answer>41</answer><answer></answer>", "answer_tag", "empty_answer"),
        ("<answer>41</answer> or perhaps <answer>42</answer>", "answer_tag", "hedged"),
        ("<answer>not 42</answer>", "answer_tag", "negated"),
        ("<answer>\\boxed{42</answer>", "answer_tag", "unclosed_box"),
        ("\\boxed{42", "boxed", "unclosed_box"),
        ("\\boxed{41} and \\boxed{42", "boxed", "unclosed_box"),
        ("\\boxed{}", "boxed", "empty_answer"),
        ("It is not \\boxed{42}", "boxed", "negated"),
        ("$x \\neq \\boxed{42}$", "boxed", "negated"),
        ("\\boxed{42} is wrong.", "boxed", "negated"),
        ("\\boxed{42} or 43", "boxed", "hedged"),
        ("$41$ or $\\boxed{42}$", "boxed", "hedged"),
        ("\\boxed{41} or else \\boxed{42}", "boxed", "hedged"),
        ("\\boxed{41}\\boxed{}", "boxed", "empty_answer"),
        ("\\boxed{41} then, no, so the answer is 42", "boxed", "contradicted"),
        ("\\boxed{41}. Wait, I made a mistake: it must be 42.", "boxed", "contradicted"),
        ("The answer is 41. Wait, no, it's 42.", "phrase", "contradicted"),
        ("The answer is not 42.", "phrase", "negated"),
        ("The answer isn't 42.", "short", "negated"),
        ("I do not think the answer is 42.", "phrase", "negated"),
        ("答案不是42。", "phrase", "negated"),
        ("答えは42ではない。", "phrase", "negated"),
        ("The answer is 42?", "phrase", "question"),
        ("The final answer is:", "phrase", "empty_answer"),
        ("Suppose the answer is 42. Then something is off.", "phrase", "hedged"),
        ("The answer is anything other than 42.", "phrase", "negated"),
        ("It cannot be 42", "short", "negated"),
        ("We can rule out 42", "short", "negated"),
        ("He doesn’t think that it is 42", "short", "negated"),
        ("There is no 42", "short", "negated"),
        ("It is hard to say whether it is 42", "short", "hedged"),
        ("You might think the answer is 42, which is odd.", "phrase", "hedged"),
        ("The answer is 42, but it may be 43.", "phrase", "contradicted"),
        ("答案可能是42", "short", "hedged"),
        ("42 is wrong", "short", "negated"),
        ("maybe 42", "short", "hedged"),
        ("Is it 42?", "short", "question"),
        ("what is 43-1+42?", "short", "question"),
        ("It is certainly, I am quite sure, not 42", "short", "negated"),
        ("I cannot decide between the two numbers, and so: 41 or perhaps it is 42", "last", "hedged"),
        ("There were thirty of them before and after we have done all this, is it 42?", "last", "question"),
        ("40\n41\n42", "last", "hedged"),
    ],
)
def test_no_answer(response: str, rule: str | None, reason: str) -> None:
    assert extract(response) == Extraction(None, rule, reason)  # type: ignore[arg-type]
    assert extract_answer(response) is None


@pytest.mark.parametrize(
    "response", ["Solve 2x-15=42.", "解方程2x-15=42。", "and then it is 3x = 42", "Evaluate 1+3*5-42."]
)
def test_an_echoed_problem_stays_a_problem(response: str) -> None:
    answer = extract_answer(response)
    assert answer is not None
    assert answer != "42"
    assert answer in response


def test_rules_can_be_demanded() -> None:
    response = "so the answer is 7, \\boxed{8}, and <answer>9</answer>"
    found = {rule: extract(response, rules=[rule]) for rule in RULES}
    assert found["answer_tag"].text == "9"
    assert found["boxed"].text == "8"
    assert found["phrase"].text == "7, \\boxed{8}, and <answer>9</answer>"
    assert found["hashes"] == Extraction(None, None, "no_answer")
    assert extract(response, rules=["boxed", "answer_tag"]).text == "9", "the order of rules is fixed"
    assert extract("I say 42", rules=["answer_tag", "boxed"]) == Extraction(None, None, "no_answer")


@pytest.mark.parametrize("rules", ["boxed", [], ["boxes"], None])
def test_rules_are_checked(rules: object) -> None:
    if rules is None:
        assert extract("42", rules=None).text == "42"
    else:
        with pytest.raises(InvalidOptionError, match="Expected"):
            extract("42", rules=rules)  # type: ignore[arg-type]


def test_only_the_end_of_a_long_response_is_read() -> None:
    padding = "word " * (MAX_RESPONSE // 5)
    assert extract_answer(f"<answer>41</answer>{padding}\nso 42 it is in the end of all this text") == "42"
    assert extract(f"<think>{padding}</think><answer>42</answer>").text == "42"
    assert extract(f"<think>{padding}").reason == "unclosed_thinking"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("In the end the rent went up: it rose by 4.5 percent", "4.5 percent"),
        ("**The distance increased by 10%.**", "10%"),
        ("As he saw, the number increased by 42", "by 42"),
        ("Then we divide the number by 42", "by 42"),
        ("It grew by at least 42", "at least 42"),
        ("班里一共有二十五人。", "二十五人"),
        ("所以概率为百分之四十", "百分之四十"),
        ("故∠B的度数为 $30°$。", "30°"),
        ("一半的42", "半的 42"),
        ("The area of the square is **16 cm^2**.", "16 cm^2"),
        ("I get $\\tfrac{7}{8}$ in the end.", "\\tfrac{7}{8}"),
        ("The answer is 12 eggs, i.e. 12.", "12 eggs"),
        ("The answer is 12 eggs, i.e. 13.", "12 eggs, i.e. 13"),
        ("综上，对的是 A、C。故选：AC", "AC"),
        (
            "the whole costs -1,250.50 euros, which is rather a lot of money for one evening out with friends",
            "-1,250.50",
        ),
        ("it costs us $11.80, and that is rather a lot of money for one evening out with some friends", "$11.80"),
        ("after some work the whole comes to 3 and 5, as anyone can check who has a little time to spare", "3 and 5"),
        ("after some work the whole comes to 2x + 5, as anyone can check who has a little time to spare", "2x + 5"),
    ],
)
def test_what_stands_around_a_value_is_heard(response: str, answer: str) -> None:
    assert extract(response).text == answer


@pytest.mark.parametrize(
    "response", ["42 or", "42或", "<answer>42 or</answer>", "The answer is 42 or", "\\boxed{42 or }"]
)
def test_an_open_choice_is_no_answer(response: str) -> None:
    assert extract(response).reason == "hedged"


@pytest.mark.parametrize(
    ("response", "answer"),
    [("42", "42"), ("0.333...", "0.333..."), ("So it is 42. . ;", "42"), ("The answer is 7**.**", "7"),
     ("The answer is 42。、", "42"), ("The answer is x\\,", "x\\,")],
)  # fmt: skip
def test_what_ends_a_sentence_is_no_part_of_the_answer(response: str, answer: str) -> None:
    assert extract(response).text == answer


@pytest.mark.parametrize(
    "piece",
    ["a", "a ", " ", "`", ";", "a-b ", "1", "1,", "1/", "- ", "(", ")", "$1", "$", "$$", "1 or ", "\\boxed{", "\\boxed{1}", "\\boxed{1},", "<answer>",
     "<answer>1</answer>", "<think>", "the answer is ", "answer to ", "answer", "答案", "答案是", "选A", "####", "####\n1.",
     "\\frac{1}{", "\\text{", "=", "1=", "x=", "<<1", "１", "，", "\\", "}", "**", "one ", "一", "not ", "Wait, ", "İ"],
)  # fmt: skip
@pytest.mark.parametrize(("before", "after"), [("", ""), ("\\boxed{4} ", " x"), ("the answer is ", " 5")])
def test_long_text_takes_linear_time(piece: str, before: str, after: str) -> None:
    text = before + piece * (200_000 // len(piece)) + after
    started = time.process_time()
    extract(text)
    assert time.process_time() - started < 1.0


TAKEN_BACK = [
    ('\\boxed{4}. Wait, the answer is 42.', '4'),
    ('\\boxed{5}. Sorry, it should be -5.', '5'),
    ('The answer is 1. Sorry, I meant 1/2.', '1'),
    ('\\boxed{42}. Wait, the answer is forty-three.', '42'),
    ('The answer is yes. Wait, no.', 'yes'),
    ("\\boxed{42} No, that's wrong.", '42'),
    ('\\boxed{42}\n#### 43', '42'),
    ('\\boxed{42}. Or 41.', '42'),
    ('The answer is 42, not.', '42'),
    ('The answer is 42. Or 41.', '42'),
    ('The answer is 41. The answer is also 42.', '42'),
    ('<answer>42</answer> is wrong.', '42'),
    ('not <answer>42</answer>', '42'),
    ('<answer>42</answer>. The answer is 41.', '42'),
    ('$-\\boxed{42}$', '42'),
    ('$\\boxed{42}^2$', '42'),
    ('$\\sqrt{\\boxed{42}}$', '42'),
    ('$\\frac{1}{\\boxed{42}}$', '42'),
    ('$2\\cdot\\boxed{42}$', '42'),
    ('$\\boxed{42}\\pm 1$', '42'),
    ('$\\boxed{42}+C$', '42'),
    ('$x>\\boxed{42}$', '42'),
    ('$\\boxed{42} \\text{ or } 41$', '42'),
    ('It might be \\boxed{42}', '42'),
    ('Anything but \\boxed{42}', '42'),
    ('less than \\boxed{42}', '42'),
    ('It is certainly not equal to \\boxed{42}', '42'),
    ('\\boxed{41} | \\boxed{42}', '42'),
    ('\\boxed{41} \\quad \\boxed{42}', '42'),
    ('Guess 1: \\boxed{41}\nGuess 2: \\boxed{42}', '42'),
    ('could be \\boxed{41} but could also be \\boxed{42}', '42'),
    ('one option: \\boxed{41}; another option: \\boxed{42}', '42'),
    ('\\boxed{41 \\boxed{42}}', '42'),
    ('不选A', 'A'),
    ('不能选A', 'A'),
    ('故不选A', 'A'),
    ('別選A', 'A'),
    ('答案不会是42', '42'),
    ('答案怎么会是42', '42'),
]  # fmt: skip
KEPT = [
    ('\\boxed{42}. The answer is reasonable.', '42'),
    ('Thus $x=\\boxed{42}$.', '42'),
    ('- \\boxed{42}', '42'),
    ('**\\boxed{42}**', '42'),
    ('\\boxed{42} - I hope this helps', '42'),
    ('\\boxed{42}\\%', '42'),
    ('\\boxed{\\boxed{5}}', '5'),
    ('\\boxed{42}. So the answer is 42 apples.', '42'),
    ('\\boxed{3\\frac12}. The answer is 3.5.', '7/2'),
    ('故选A', 'A'),
    ('选A', 'A'),
    ('<answer>42</answer> I am sure this is right.', '42'),
    ('<answer>42</answer>\nThe answer is 42.', '42'),
    ('x cannot be 0, we get \\boxed{42}', '42'),
    ('$$\\boxed{42}$$ Or equivalently 84/2.', '42'),
    ('\\boxed{42}\n#### 42', '42'),
    ('$\\boxed{\\frac{1}{2}}$ (or 0.5)', '1/2'),
    ('Answer: $\\boxed{42}$ + more text', '42'),
    ('we have \\(x = \\boxed{-42}\\)', '-42'),
    ('$4+38=\\boxed{42}$', '42'),
    ('> \\boxed{42}', '42'),
]  # fmt: skip


@pytest.mark.parametrize(("response", "reference"), TAKEN_BACK)
def test_what_stands_around_an_answer_can_unsay_it(response: str, reference: str) -> None:
    assert not verify(response, reference)


@pytest.mark.parametrize(("response", "reference"), KEPT)
def test_what_stands_around_an_answer_may_be_harmless(response: str, reference: str) -> None:
    assert verify(response, reference)
