"""Render modes of every registered id, through Gymnasium's own recording wrappers."""

import gymnasium as gym
import numpy as np
import pytest

import llmgym  # noqa: F401 - registers the ids
from llmgym.transcript import Author


def play(env: gym.Env, n_actions: int = 6) -> None:
    env.reset(seed=0)
    for token in env.unwrapped.tokenizer.encode("12+3=15\n")[:n_actions]:
        env.step(token)
    env.step(env.unwrapped.tokenizer.end_token_id)


def test_ansi_shows_who_wrote_what(env_id):
    env = gym.make(env_id, render_mode="ansi")
    play(env, 2)
    trace = env.unwrapped.token_trace
    assert {token.author for token in trace} == {Author.PROMPT, Author.AGENT}
    text = env.render()
    assert text.startswith("\x1b")
    assert env_id in text
    assert env.unwrapped.tokenizer.end_token in text


def test_rewards_are_shown_where_they_are_paid():
    env = gym.make("llmgym/MathReason-v0", render_mode="ansi", action_unit="step", rewards={"process": 0.25})
    env.reset(seed=0)
    env.step("1+1=2\n")
    env.step("1+1=3\n")
    paid = [token.text for token in env.unwrapped.token_trace if token.reward]
    assert paid == ["\n"]
    assert env.render().count("+0.25") == 2  # where it was paid, and in the return


def test_human_prints_each_token_once(capsys):
    env = gym.make("llmgym/MathReason-v0", render_mode="human", action_unit="token")
    env.reset(seed=0)
    prompt = capsys.readouterr().out
    env.step(env.unwrapped.tokenizer.encode("7")[0])
    after = capsys.readouterr().out
    assert len(prompt) > len(after)
    assert after.count("7") >= 1
    assert "prompt" not in after  # no legend in between


def test_render_collection_keeps_frames_of_one_size():
    pytest.importorskip("PIL")
    env = gym.wrappers.RenderCollection(gym.make("llmgym/MathReason-v0", render_mode="rgb_array"))
    play(env, 3)
    frames = env.render()
    assert len(frames) == 5
    assert {frame.shape for frame in frames} == {(540, 960, 3)}
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert not np.array_equal(frames[0], frames[-1])


def test_record_video_writes_a_film(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(gym.make("llmgym/MathReason-v0", render_mode="rgb_array"), str(tmp_path / "films"))
    play(env, 3)
    env.close()
    (film,) = (tmp_path / "films").glob("*.mp4")
    assert film.stat().st_size > 1000


def test_vector_environments_render_a_picture_a_slot():
    pytest.importorskip("PIL")
    envs = gym.make_vec("llmgym/MathReason-v0", num_envs=2, render_mode="rgb_array")
    envs.reset(seed=0)
    first, second = envs.render()
    assert first.shape == (540, 960, 3)
    assert not np.array_equal(first, second)
