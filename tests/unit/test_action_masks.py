"""Masks of actions from a grammar, and the patterns behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmgym
from llmgym.envs.copy import copy_tokenizer
from llmgym.errors import InvalidActionError, InvalidOptionError
from llmgym.grammar import Grammar
from llmgym.patterns import compile_pattern

COPY = "llmgym/Copy-v0"
TOKENIZER = copy_tokenizer(2)
PAD, END, UNKNOWN, EQUALS, ZERO, ONE = range(6)


def matches(pattern: str, text: str) -> bool:
    automaton = compile_pattern(pattern)
    states = automaton.start
    for character in text:
        states = automaton.step(states, character)
    return automaton.end in states


# --- Patterns ---------------------------------------------------------------------------------------------------------

PATTERNS = [
    "", "a", "ab", "a|b", "a|", "(a|b)*", "(a|b)*abb", "a+b?", "(ab){2}", "(ab){1,3}", "a{2,}", "a{,2}", "a{0}b", "(a*)*b",
    "[ab]c", "[^ab]", "[a-c]+", "[a\\-c]", "[]a]", "[^]a]", "[a-]", ".", "a.b", r"\d+", r"\D", r"\w\W", r"\s", r"[\d_]+",
    r"\.", r"a\nb", "a{", "{}", "a{b}", "(?:ab)+", "((a))", "[一-三]", "é|e",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_re_means(pattern: str) -> None:
    texts = ["", "a", "b", "c", "ab", "abb", "aab", "abab", "ababab", "abababab", "aaa", "ac", "]", "-", "_", ".", "\n",
             "a\nb", "axb", "7", "70", "٣", "a{", "{}", "a{b}", "二", "é", "e", " ", "7_", "a "]  # fmt: skip
    for text in texts:
        assert matches(pattern, text) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@st.composite
def patterns(draw: Any) -> str:
    atoms = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", "ab"])
    wrap: Callable[[Any], Any] = lambda inner: st.one_of(  # noqa: E731
        st.builds("({}|{})".format, inner, inner),
        st.builds("{}{}".format, inner, inner),
        st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "{,1}"])),
    )
    return draw(st.recursive(atoms, wrap, max_leaves=6))


@given(pattern=patterns(), text=st.text("ab1\n", max_size=7))
def test_any_pattern_means_what_re_means(pattern: str, text: str) -> None:
    assert matches(pattern, text) == bool(re.fullmatch(pattern, text, re.ASCII))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "Expected a regular expression"),
        ("a**", "Expected a regular expression"),
        ("^a", "an anchor"),
        ("a$", "an anchor"),
        ("a*?", "lazy"),
        ("a++", "lazy or possessive"),
        ("(?=a)", "more than a bracket"),
        ("(a)\\1", "the escape"),
        (r"\bа", "the escape"),
        ("a{1001}", "more than 1000 times"),
        (7, "to be a text"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        compile_pattern(pattern)


# --- Grammars ---------------------------------------------------------------------------------------------------------


def texts_of(mask: np.ndarray) -> list[str]:
    return [TOKENIZER.token_text(token) for token in np.flatnonzero(mask)]


def test_tokens_that_keep_to_the_format() -> None:
    grammar = Grammar("([01] ){1,2}", TOKENIZER)
    states = np.array([Grammar.START])
    assert texts_of(grammar.allowed(states)[0]) == ["0 ", "1 "]
    states = grammar.advance(states, np.array([ONE]))
    assert texts_of(grammar.allowed(states)[0]) == ["<eos>", "0 ", "1 "]
    states = grammar.advance(states, np.array([ZERO]))
    assert texts_of(grammar.allowed(states)[0]) == ["<eos>"]
    states = grammar.advance(states, np.array([END]))  # a turn that follows begins anew
    assert texts_of(grammar.allowed(states)[0]) == ["0 ", "1 "]


def test_padding_is_never_allowed() -> None:
    assert not Grammar("(.|\n)*", TOKENIZER).allowed(np.array([Grammar.START]))[0, PAD]


@given(data=st.data())
def test_masked_play_is_what_the_pattern_matches(data: st.DataObject) -> None:
    """Any play within the masks ends in a match, and every token left out would lead away from all matches."""
    pattern = "(0 |1 0 ){1,3}=?"
    grammar = Grammar(pattern, TOKENIZER)
    states, text = np.array([Grammar.START]), ""
    while True:
        allowed = np.flatnonzero(grammar.allowed(states)[0])
        assert (END in allowed) == bool(re.fullmatch(pattern, text))
        token = data.draw(st.sampled_from(allowed.tolist()))
        if token == END:
            break
        states = grammar.advance(states, np.array([token]))
        text += TOKENIZER.token_text(token)
    assert re.fullmatch(pattern, text)


def test_tokens_of_several_characters_are_read_character_by_character() -> None:
    """The shipped tokenizer has `<think>` as one token and its characters as others."""
    tokenizer = llmgym.load_tokenizer("tiny-reasoner")
    grammar = Grammar(r"<think>[^<]*</think>\d", tokenizer)
    for ids in (tokenizer.encode("<think>ab</think>7"), [t for c in "<think>ab</think>7" for t in tokenizer.encode(c)]):
        width = np.array([len(ids)])
        state = grammar.states_after(np.array([ids]), np.zeros(1, dtype=np.int64), width)
        assert np.flatnonzero(grammar.allowed(state)[0]).tolist() == [tokenizer.end_token_id]


def test_states_after_turns_of_different_lengths() -> None:
    grammar = Grammar("([01] ){2}", TOKENIZER)
    ids = np.array([[ONE, EQUALS, ZERO, ONE], [ONE, EQUALS, ZERO, PAD], [ONE, EQUALS, PAD, PAD]])
    states = grammar.states_after(ids, np.array([2, 2, 2]), np.array([4, 3, 2]))
    assert [texts_of(row) for row in grammar.allowed(states)] == [["<eos>"], ["0 ", "1 "], ["0 ", "1 "]]


def test_a_place_without_a_token_is_an_error() -> None:
    with pytest.raises(InvalidOptionError, match="after '' no token"):
        Grammar("[a-z]+", TOKENIZER)
    with pytest.raises(InvalidOptionError, match="after '0 ' no token"):
        Grammar("0 x", TOKENIZER)


def test_a_dead_end_that_lies_far_ahead_is_an_error_when_reached() -> None:
    grammar = Grammar("(0 ){100}x", TOKENIZER)
    ids = np.full((1, 100), ZERO)
    states = grammar.states_after(ids, np.array([0]), np.array([100]))
    with pytest.raises(InvalidOptionError, match="no token"):
        grammar.allowed(states)


def test_unknown_and_forbidden_tokens_are_errors() -> None:
    grammar = Grammar("[01] ", TOKENIZER)
    start = np.array([Grammar.START])
    for wrong in (-1, 6):
        with pytest.raises(InvalidActionError, match=rf"tokens in \[0, 6\).*actual: {wrong}"):
            grammar.advance(start, np.array([wrong]))
    with pytest.raises(InvalidActionError, match=r"keeps to the grammar.*actual: '=' \(token 3\)"):
        grammar.advance(start, np.array([EQUALS]))


def test_rules_on_neighbours_say_the_same_as_the_masks() -> None:
    grammar = Grammar("([01] )+", TOKENIZER)
    rules = grammar.forbidden(EQUALS)
    assert set(rules) == {EQUALS, ZERO, ONE}
    state = np.array([Grammar.START])
    for before, token in ((EQUALS, ZERO), (ZERO, ONE), (ONE, ONE)):
        assert sorted(rules[before]) == np.flatnonzero(~grammar.allowed(state)[0]).tolist()
        state = grammar.advance(state, np.array([token]))


def test_rules_on_neighbours_cannot_count() -> None:
    with pytest.raises(InvalidOptionError, match="the token before alone"):
        Grammar("([01] ){2}", TOKENIZER).forbidden(EQUALS)


def test_a_policy_plays_the_rules() -> None:
    torch = pytest.importorskip("torch")
    from llmgym.agents.sampling import TokenDistribution

    rules = Grammar("([01] )+", TOKENIZER).forbidden(EQUALS)
    played = TokenDistribution(TOKENIZER.vocab_size, forbidden=rules)
    shaped = played.shaped(torch.zeros(2, TOKENIZER.vocab_size), torch.tensor([EQUALS, ZERO]))
    assert shaped.isfinite().tolist() == [[False] * 4 + [True] * 2, [False, True, False, False, True, True]]


# --- Environments -----------------------------------------------------------------------------------------------------


def test_without_a_grammar_every_token_is_allowed() -> None:
    env = gym.make(COPY).unwrapped
    envs = gym.make_vec(COPY, num_envs=3, vectorization_mode="vector_entry_point").unwrapped
    for mask, shape in ((env.action_masks(), (8,)), (envs.action_masks(), (3, 8))):
        assert mask.shape == shape
        assert mask.dtype == np.bool_
        assert mask.all()


def test_single_and_vector_environments_give_the_same_masks() -> None:
    singles = [gym.make(COPY, grammar=r"([0-3] ){3}").unwrapped for _ in range(3)]
    envs: Any = gym.make_vec(
        COPY, num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode="same_step", grammar=r"([0-3] ){3}"
    )
    envs.reset(seed=0)
    for i, env in enumerate(singles):
        env.reset(seed=i)
    rng = np.random.default_rng(0)
    for _ in range(12):
        masks = envs.unwrapped.action_masks()
        np.testing.assert_array_equal(masks, [env.action_masks() for env in singles])
        assert masks.any(axis=1).all()
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        envs.step(actions)
        for env, action in zip(singles, actions.tolist(), strict=True):
            _, _, terminated, truncated, _ = env.step(action)
            assert not truncated
            if terminated:
                env.reset()


def test_masks_follow_states_that_are_restored() -> None:
    env: Any = gym.make(COPY, grammar="[0-3] ").unwrapped
    env.reset(seed=0)
    state = env.clone_state()
    before = env.action_masks()
    env.step(4)
    assert env.action_masks().nonzero()[0].tolist() == [1]
    env.restore_state(state)
    np.testing.assert_array_equal(env.action_masks(), before)


def test_where_an_episode_is_over_nothing_is_masked() -> None:
    envs: Any = gym.make_vec(COPY, num_envs=2, vectorization_mode="vector_entry_point", grammar="[0-3] ").unwrapped
    envs.reset(seed=0)
    envs.step(np.array([4, 4]))
    envs.step(np.array([1, 4]))  # the second leaves the grammar, which only bounds who asks
    with pytest.raises(InvalidActionError, match="keeps to the grammar"):
        envs.action_masks()
    envs.reset(seed=0)
    envs.step(np.array([1, 4]))
    assert envs.action_masks()[0].all()
    assert not envs.action_masks()[1].all()


def test_masks_need_an_episode_and_tokens() -> None:
    with pytest.raises(InvalidActionError, match="before action_masks"):
        gym.make(COPY, grammar="[0-3] ").unwrapped.action_masks()
    with pytest.raises(InvalidOptionError, match='action_unit="token"'):
        gym.make(COPY, action_unit="response").unwrapped.action_masks()
    with pytest.raises(InvalidOptionError, match='`grammar` with action_unit="token"'):
        gym.make(COPY, action_unit="step", grammar="[0-3] ")
    with pytest.raises(InvalidOptionError, match="`grammar` to be a text"):
        gym.make(COPY, grammar=["[0-3] "])


def test_a_grammar_is_a_plain_value_of_the_spec() -> None:
    env = gym.make(COPY, grammar="[0-3] ")
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.engine.options.grammar == "[0-3] "
    assert json.loads(env.spec.to_json())["kwargs"] == {"grammar": "[0-3] "}


class Teacher:
    """Asks for a digit twice."""

    replies = True

    def sample(self, rng: np.random.Generator) -> llmgym.Problem:
        return llmgym.Problem("0 ", "0", "teacher")

    def reply(self, problem: llmgym.Problem, transcript: llmgym.Transcript) -> str | None:
        return "=" if transcript.response.count(" ") < 2 else None


def test_each_turn_begins_the_grammar_anew() -> None:
    env = llmgym.LanguageEnv(
        Teacher(), tokenizer=TOKENIZER, prompt_template="{question}", rewards={}, grammar="[01] ", max_new_tokens=8
    )
    env.reset(seed=0)
    digits = [False] * 4 + [True] * 2
    assert env.action_masks().tolist() == digits
    env.step(ONE)
    assert env.action_masks().nonzero()[0].tolist() == [END]
    env.step(END)
    assert env.transcript.response.count(" ") == 1
    assert env.action_masks().tolist() == digits
