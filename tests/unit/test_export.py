"""Episodes as a Minari data set: what is read back is what was played, and can be played again."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")
minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

from llmgym.agents import GRPO  # noqa: E402
from llmgym.cli import main  # noqa: E402
from llmgym.errors import InvalidOptionError, LLMGymError  # noqa: E402
from llmgym.export import About, Played, check_dataset_id, columns, export_minari, repeat, single_env  # noqa: E402

LEVEL = {"level": 1, "rewards": {"correctness": 1.0, "format": 0.1}, "max_new_tokens": 32}


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """Minari's folder, for each test its own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture(scope="module")
def agent():
    return GRPO("tiny-reasoner", "llmgym/MathReason-v0", env_kwargs=LEVEL, run_dir=None)


def with_seeds(dataset):
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    return zip(dataset.iterate_episodes(), [one["seed"] for one in metadata], strict=True)


def test_what_is_read_back_can_be_played_again(agent):
    """In the environment that the data set names, from the seeds and the actions that it holds."""
    about = About(algorithm_name="base", author="Ada", author_email="ada@example.org", description="some episodes")
    export_minari(agent, "math/base-v0", n_episodes=12, seed=5, num_envs=8, about=about)
    dataset = minari.load_dataset("math/base-v0")
    assert dataset.total_episodes == 12
    env = dataset.recover_environment()
    assert env.unwrapped.spec.kwargs == LEVEL | {"tokenizer": "tiny-reasoner"}
    returns = []
    for number, (episode, seed) in enumerate(with_seeds(dataset)):
        assert seed == 5 + number
        observation, info = env.reset(seed=seed)
        moments = [(observation, info)]
        for step, action in enumerate(episode.actions):
            observation, reward, terminated, truncated, info = env.step(action)
            moments.append((observation, info))
            assert (reward, terminated, truncated) == (
                episode.rewards[step], episode.terminations[step], episode.truncations[step]
            )  # fmt: skip
        assert terminated or truncated
        for name in ("input_ids", "attention_mask"):
            expected = np.stack([observation[name] for observation, _ in moments])
            assert np.array_equal(episode.observations[name], expected)
            assert episode.observations[name].dtype == expected.dtype
        paid = [info.get("reward_components", {"format": 0.0})["format"] for _, info in moments]
        assert episode.infos["reward_components"]["format"].tolist() == paid
        assert set(episode.infos["problem_id"]) == {moments[0][1]["problem_id"].encode()}
        assert episode.infos["stop_reason"].tolist() == [b""] * step + [b"", info["stop_reason"].encode()]
        returns.append(episode.rewards.sum())
    assert 0 < np.mean(returns) < 1.1
    assert (dataset.storage.metadata["author"], dataset.storage.metadata["algorithm_name"]) == ({"Ada"}, "base")


@pytest.mark.slow
def test_the_seed_makes_the_data_set_and_the_slots_do_not_choose_the_problems(agent):
    for number, (seed, slots) in enumerate([(1, 4), (1, 4), (1, 3), (9, 4)]):
        export_minari(agent, f"a-v{number}", n_episodes=6, seed=seed, num_envs=slots)
    first, again, fewer, other = (list(minari.load_dataset(f"a-v{n}").iterate_episodes()) for n in range(4))
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(first, again, strict=True))
    assert all(
        np.array_equal(a.observations["input_ids"][0], b.observations["input_ids"][0])
        for a, b in zip(first, fewer, strict=True)
    )
    assert not all(
        np.array_equal(a.observations["input_ids"][0], b.observations["input_ids"][0])
        for a, b in zip(first, other, strict=True)
    )


def test_a_data_set_is_not_written_over(agent, datasets):
    folder = export_minari(agent, "math/base-v0", n_episodes=2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InvalidOptionError, match="the id of a new data set"):
        export_minari(agent, "math/base-v0", n_episodes=3)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_cannot_be_repeated_is_no_data_set(agent, datasets, monkeypatch):
    """A reward that is another the second time: nothing is left."""
    monkeypatch.setattr(
        "llmgym.export._play", lambda *_: iter([Played(0, np.array([1]), np.array([1]), np.array([1.0]))])
    )
    with pytest.raises(LLMGymError, match="can be repeated from seed and tokens"):
        export_minari(agent, "math/base-v0", n_episodes=1)
    assert not (datasets / "math" / "base-v0").exists()


@pytest.mark.parametrize("change", ["prompt", "reward", "early", "late"])
def test_a_difference_is_noticed(change):
    env = gym.make("llmgym/Copy-v0", n_digits=2)
    prompt, tokens, rewards = [], [], []
    observation, _ = env.reset(seed=3)
    prompt = observation["input_ids"][observation["attention_mask"] == 1].astype(np.int64)
    for token in [4, 4, 4]:
        _, reward, terminated, truncated, _ = env.step(token)
        tokens.append(token)
        rewards.append(reward)
        if terminated or truncated:
            break
    assert repeat(env, Played(3, prompt, np.array(tokens), np.array(rewards)))["seed"] == 3
    if change == "prompt":
        prompt = prompt[1:]
    elif change == "reward":
        rewards[0] += 0.5
    elif change == "early":
        tokens, rewards = tokens[:-1], rewards[:-1]
    else:
        tokens, rewards = [*tokens, 4], [*rewards, 0.0]
    with pytest.raises(LLMGymError, match="seed 3 went another way"):
        repeat(env, Played(3, prompt, np.array(tokens), np.array(rewards)))


@pytest.mark.parametrize("name", ["base", "math/base", "a b-v0", "-v0", ""])
def test_ids_that_minari_has_not(name):
    with pytest.raises(InvalidOptionError, match="Minari's id of a data set"):
        check_dataset_id(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_episodes": 0}, "n_episodes >= 1"),
        ({"n_episodes": 1, "seed": -1}, "seed >= 0"),
        ({"n_episodes": 1, "num_envs": 0}, "num_envs >= 1"),
        ({"n_episodes": 1, "action_unit": "response"}, "no 'action_unit' among"),
        ({"n_episodes": 1, "level": 9}, "level"),
    ],
)
def test_options_that_cannot_be(agent, options, said, datasets):
    with pytest.raises(InvalidOptionError, match=said):
        export_minari(agent, "math/base-v0", **options)
    assert not (datasets / "math").exists()


def test_an_agent_s_own_tokenizer_goes_by_the_shipped_name(agent, tmp_path):
    agent.save(tmp_path / "saved")
    again = GRPO.load(tmp_path / "saved", run_dir=None)
    assert single_env(again.training_envs, {}).unwrapped.spec.kwargs["tokenizer"] == "tiny-reasoner"


def test_infos_as_columns():
    said = [
        {"n": 0, "problem_id": "p"},
        {"n": np.int64(1), "parts": {"format": 0.5}},
        {"n": 1, "parts": {"format": 0.0}, "details": {"format": {"problems": ("no <think>",), "ok": True}}},
    ]
    assert columns(said) == {
        "n": [0, 1, 1],
        "problem_id": ["p", "p", "p"],
        "parts": {"format": [0.0, 0.5, 0.0]},
        "details": {"format": {"problems": ["", "", '["no <think>"]'], "ok": [False, False, True]}},
    }


# -- the command ----------------------------------------------------------------------------------------------------------


def test_the_command(agent, tmp_path, capsys):
    """Of a saved agent, with its own environment; what cannot be is refused before anything is loaded."""
    agent.save(tmp_path / "saved")
    words = ["export", str(tmp_path / "saved"), "--minari", "math/saved-v1", "--episodes", "5", "--author", "Ada"]
    main([*words, "--env-kwargs", "level=2"])
    assert "math/saved-v1: 5 episodes in" in capsys.readouterr().out
    dataset = minari.load_dataset("math/saved-v1")
    metadata = dataset.storage.metadata
    assert metadata["algorithm_name"] == "grpo"
    assert "--minari math/saved-v1" in metadata["description"]
    assert dataset.recover_environment().unwrapped.spec.kwargs == LEVEL | {"level": 2, "tokenizer": "tiny-reasoner"}
    assert {level for episode in dataset for level in episode.infos["level"]} == {2}
    for wrong, said in (
        (words, "the id of a new data set"),
        (["export", "no/folder/there", "--minari", "x"], "Minari's id"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
