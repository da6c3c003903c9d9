"""Pictures of an episode: what is written, what is paid, and that nothing in a response reaches the terminal raw."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgym.errors import MissingExtraError
from llmgym.rendering import TokenTrace, render_ansi, render_rgb
from llmgym.transcript import Author

EPISODE = [
    TokenTrace("Tom walks 3 km.\n", Author.PROMPT),
    TokenTrace("3*2=6", Author.AGENT),
    TokenTrace("\n", Author.AGENT, 0.25),
    TokenTrace("tool: yes", Author.ENVIRONMENT),
    TokenTrace("<eos>", Author.AGENT, -0.5),
]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def colours(text: str) -> dict[str, str]:
    """The escape sequence in force for each run of text."""
    return {run: style for style, run in re.findall(r"\x1b\[([0-9;]*)m([^\x1b]+)\x1b\[0m", text)}


def test_ansi_gives_each_author_a_colour_and_each_reward_its_amount():
    style = colours(render_ansi(EPISODE, "my header"))
    assert len({style["Tom walks 3 km."], style["3*2=6"], style["tool: yes"]}) == 3
    assert style["Tom walks 3 km."] == style["prompt"]  # the legend tells the truth
    assert style[" +0.25 "] != style[" -0.50 "]
    assert style["<eos>"].endswith(";4")  # paid tokens are underlined
    assert "my header" in style


def test_ansi_without_colour_is_plain_and_complete():
    text = render_ansi(EPISODE, colour=False)
    assert "\x1b" not in text
    assert text.splitlines()[:3] == ["Tom walks 3 km.", "3*2=6 +0.25", "tool: yes<eos> -0.50"]
    assert text.splitlines()[-1].endswith("return -0.25")


def test_colour_changes_no_text():
    coloured = ESCAPE.sub("", render_ansi(EPISODE)).replace("↵", "").splitlines()
    assert [line.rstrip() for line in coloured] == render_ansi(EPISODE, colour=False).splitlines()


def test_ansi_wraps_at_words_and_counts_wide_characters_twice():
    words = render_ansi([TokenTrace("alpha beta gamma delta", Author.AGENT)], width=20, colour=False).splitlines()
    assert words[:2] == ["alpha beta gamma", "delta"]
    wide = render_ansi([TokenTrace("千" * 15, Author.AGENT)], width=20, colour=False).splitlines()
    assert wide[:2] == ["千" * 10, "千" * 5]


def test_ansi_shows_control_characters_instead_of_sending_them():
    text = render_ansi([TokenTrace("a\x1b[31mb\x07\x9b\u202e", Author.AGENT)], colour=False)
    assert text.splitlines()[0] == "a␛[31mb␇\ufffd"


@given(
    st.lists(st.builds(TokenTrace, st.text(max_size=30), st.sampled_from(Author), st.floats(-2, 2)), max_size=20),
    st.integers(20, 60),
)
def test_ansi_is_defined_for_every_text(trace, width):
    text = ESCAPE.sub("", render_ansi(trace, width=width))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_rgb_has_a_fixed_size_and_is_fresh():
    pytest.importorskip("PIL")
    first, second = render_rgb(EPISODE, size=(480, 270)), render_rgb(EPISODE * 40, size=(480, 270))
    assert first.shape == second.shape == (270, 480, 3)
    assert first.dtype == np.uint8
    assert not np.shares_memory(first, render_rgb(EPISODE, size=(480, 270)))


def has_colour(picture, rgb) -> bool:
    return bool((picture == np.array(rgb, np.uint8)).all(-1).any())


def test_rgb_marks_rewards_and_scrolls_to_the_end():
    pytest.importorskip("PIL")
    green, red = (63, 185, 80), (248, 97, 89)
    gain = [TokenTrace("x", Author.AGENT, 1.0)]
    filler = [TokenTrace("line\n", Author.AGENT)] * 80
    assert not has_colour(render_rgb(filler), green)
    assert has_colour(render_rgb(filler + gain), green)
    assert not has_colour(render_rgb(filler + gain), red)
    # Paid and then scrolled out of sight: the body no longer shows it, the return below does.
    body = render_rgb(gain + filler)[60:-60]
    assert not has_colour(body, green)


def test_rgb_draws_something_for_characters_without_a_font():
    pytest.importorskip("PIL")
    blank = render_rgb([TokenTrace("    ", Author.AGENT)])
    assert not np.array_equal(render_rgb([TokenTrace("问题", Author.AGENT)]), blank)
    one, other = render_rgb([TokenTrace("问", Author.AGENT)]), render_rgb([TokenTrace("题", Author.AGENT)])
    assert not np.array_equal(one, other)  # legible: two characters look different


def test_too_small_a_picture_is_refused():
    pytest.importorskip("PIL")
    with pytest.raises(ValueError, match=r"Expected `size` >= .*actual: \(100, 50\)"):
        render_rgb(EPISODE, size=(100, 50))
    with pytest.raises(ValueError, match="Expected `width` >= 20"):
        render_ansi(EPISODE, width=5)


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llmgym-rl\[render\]"'):
        render_rgb(EPISODE)
