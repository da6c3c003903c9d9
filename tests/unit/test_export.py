"""Episodes as a Minari data set: what is read back is what was played, and can be played again."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")
minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

import llmgym.export  # noqa: E402
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


def during_the_second_episode(monkeypatch, do):
    """``do`` is called once, while a data set is being written."""
    calls = iter([lambda: None, do])
    real = llmgym.export.repeat

    def repeat_and_do(env, episode):
        next(calls, lambda: None)()
        return real(env, episode)

    monkeypatch.setattr("llmgym.export.repeat", repeat_and_do)


def test_a_data_set_that_another_finished_in_between_stays(agent, datasets, monkeypatch):
    during_the_second_episode(monkeypatch, lambda: export_minari(agent, "math/base-v0", n_episodes=3, seed=100))
    with pytest.raises(InvalidOptionError, match="the id of a new data set"):
        export_minari(agent, "math/base-v0", n_episodes=2)
    assert [seed for _, seed in with_seeds(minari.load_dataset("math/base-v0"))] == [100, 101, 102]
    assert sorted(path.name for path in (datasets / "math").iterdir()) == ["base-v0", "namespace_metadata.json"]


def test_a_data_set_is_there_when_it_is_whole(agent, datasets, monkeypatch):
    """While it is written, when a kill would leave what is there, Minari knows of none; an interrupt leaves nothing."""
    seen = []

    def look_and_interrupt():
        seen.extend([minari.list_local_datasets(), check_dataset_id("math/base-v0").exists()])
        raise KeyboardInterrupt

    during_the_second_episode(monkeypatch, look_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_minari(agent, "math/base-v0", n_episodes=2)
    assert seen == [{}, False]
    assert [path.name for path in (datasets / "math").iterdir()] == ["namespace_metadata.json"]
    export_minari(agent, "math/base-v0", n_episodes=2)
    assert list(minari.list_local_datasets()) == ["math/base-v0"]
    assert minari.load_dataset("math/base-v0").total_episodes == 2


def test_a_namespace_keeps_what_was_said_of_it(agent):
    minari.namespace.create_namespace("math", description="Sums")
    export_minari(agent, "math/base-v0", n_episodes=1)
    assert minari.namespace.get_namespace_metadata("math") == {"description": "Sums"}


def test_a_rollout_after_the_other_goes_on_with_the_seeds(agent, monkeypatch):
    monkeypatch.setattr("llmgym.export._CHUNK", 3)
    export_minari(agent, "math/base-v0", n_episodes=8, seed=5)
    dataset = minari.load_dataset("math/base-v0")
    env = dataset.recover_environment()
    for number, (episode, seed) in enumerate(with_seeds(dataset)):
        assert seed == 5 + number
        assert np.array_equal(episode.observations["input_ids"][0], env.reset(seed=seed)[0]["input_ids"])
    assert len({episode.observations["input_ids"][0].tobytes() for episode in dataset.iterate_episodes()}) > 3


def test_the_agent_s_generator_is_put_back(agent, monkeypatch):
    before = agent.policy.generator.get_state()
    export_minari(agent, "math/base-v0", n_episodes=1)
    assert agent.policy.generator.get_state().equal(before)
    monkeypatch.setattr("llmgym.export.collect", lambda *_, **__: {}["no batch"])
    with pytest.raises(KeyError):
        export_minari(agent, "math/base-v1", n_episodes=1)
    assert agent.policy.generator.get_state().equal(before)


def test_problems_of_a_file_are_found_from_another_folder(agent, tmp_path, monkeypatch):
    """And a NUL in them is no reason to have played in vain."""
    lines = [{"question": f"What is {n}+1?", "answer": f"{n + 1}\0"} for n in range(5)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    changes = {"dataset": "sums.jsonl", "split": "all", "level": None, "reveal_reference_answer": True}
    export_minari(agent, "math/sums-v0", n_episodes=2, **changes)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    dataset = minari.load_dataset("math/sums-v0")
    env = dataset.recover_environment()
    assert env.unwrapped.spec.kwargs["dataset"] == str((tmp_path / "sums.jsonl").resolve())
    for episode, seed in with_seeds(dataset):
        _, info = env.reset(seed=seed)
        assert episode.infos["reference_answer"][0].decode() == info["reference_answer"].replace("\0", r"\u0000")
        assert "\0" in info["reference_answer"]


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


@pytest.mark.parametrize("name", ["base", "math/base", "a b-v0", "-v0", "", "q/x-v0", "ab//cd/x-v0"])
def test_ids_that_minari_has_not(name):
    with pytest.raises(
        InvalidOptionError, match=r"Minari's id of a data set.* two characters or more in the namespace"
    ):
        check_dataset_id(name)


def test_the_shortest_id(datasets):
    assert check_dataset_id("qq/x-v0") == datasets / "qq" / "x-v0"


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


@pytest.mark.parametrize(
    ("said", "column"),
    [
        ([None, None], None),
        ([{"b": None}, None], None),
        ([None, 1], [0, 1]),
        (["a\0b\ud800", None], [r"a\u0000b\ud800"] * 2),
        ([("a\0b\ud800",), None], [r'["a\u0000b\ud800"]'] * 2),
        (["a", 1], ['"a"', "1"]),
        ([1, {"b": np.int64(2)}], ["1", '{"b": 2}']),
        ([2**63 - 1, 1], [2**63 - 1, 1]),
        ([2**63, 1], ["9223372036854775808", "1"]),
        ([np.arange(2), None], ["[0, 1]"] * 2),
    ],
)
def test_what_an_info_can_say(said, column):
    assert columns([{"a": value} for value in said]) == ({} if column is None else {"a": column})


@pytest.mark.parametrize("infos", [{"": 1}, {".": 1}, {"a\0b": 1}, {3: 1}, {"a": object()}, {"a": {"b": {1, 2}}}])
def test_infos_that_cannot_be_written(infos):
    with pytest.raises(LLMGymError, match=r"Expected .*infos"):
        columns([infos])


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
