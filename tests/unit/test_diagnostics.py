"""The diagnostic environments: their numbers against the exact solver, by hand and by sampling; and how they play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import SyncVectorEnv

from llmgym.envs.diagnostics import DIAGNOSTICS, Diagnostic, Episode, play
from llmgym.envs.diagnostics.conflicts import true_score
from llmgym.envs.diagnostics.table import SIZES, length_drift
from llmgym.envs.diagnostics.words import FirstBelow, leading_words, n_actions
from llmgym.errors import InvalidOptionError
from llmgym.registration import ENVIRONMENTS
from llmgym.tasks import Problem
from llmgym.testing.exact import build_tree

EVERY = list(DIAGNOSTICS.values())
#: Other options than those of the sizes, so small that a tree takes no time: the closed forms hold for them too.
TINY: dict[str, list[dict[str, Any]]] = {
    "credit": [{"distance": 0, "n_words": 3}, {"distance": 2, "n_words": 2}],
    "exploration": [{"length": 1, "n_words": 5}, {"length": 3, "n_words": 2}],
    "copy": [{"n_digits": 1, "n_symbols": 2}, {"n_digits": 2, "n_symbols": 2}],
    "recall": [{"n_pairs": 1, "n_values": 2}, {"n_pairs": 2, "n_values": 2}],
    "vocabulary": [{"n_words": 4}, {"n_words": 9}],
    "noise": [{"flip": 0.0, "n_words": 3}, {"flip": 0.3, "n_words": 2}],
    "scale": [{"scale": 0.5, "n_words": 3}, {"scale": 20.0, "n_words": 2}],
    "sparse": [{"length": 1, "n_words": 3, "dense": False}, {"length": 3, "n_words": 3, "dense": False}],
    "dense": [{"length": 1, "n_words": 3, "dense": True}, {"length": 3, "n_words": 3, "dense": True}],
    "length_bias": [{"budget": 1, "flip": 0.0, "n_words": 3}, {"budget": 3, "flip": 0.3, "n_words": 2}],
    "truncation": [{"length": 1, "n_words": 3}, {"length": 3, "n_words": 2}],
    "format_conflict": [{"bonus": 0.0, "n_words": 2}, {"bonus": 0.9, "n_words": 3}],
    "proxy": [{"length": 2, "n_words": 3}, {"length": 3, "n_words": 2}],
    "difficulty": [{"levels": 1, "n_words": 2}, {"levels": 3, "n_words": 3}],
}


def named(diagnostic: Diagnostic) -> str:
    return diagnostic.name


def outcomes(diagnostic: Diagnostic, options: dict[str, Any]) -> Any:
    """``None``, but for the copying task, which only draws its problems."""
    if diagnostic.name != "copy":
        return None
    env = gym.make(diagnostic.env_id, **options)
    digits = sorted({env.reset(seed=seed)[1]["problem_id"].removeprefix("copy:") for seed in range(60)})
    return [(1 / len(digits), Problem(answer, answer, answer)) for answer in digits]


# --- The numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diagnostic", EVERY, ids=named)
def test_optimum_and_random_return_are_what_the_solver_finds(diagnostic: Diagnostic) -> None:
    for options in TINY[diagnostic.name]:
        env = gym.make(diagnostic.env_id, **options, disable_env_checker=True)
        tree = build_tree(env, outcomes=outcomes(diagnostic, options))
        assert tree.optimum().expected_return == pytest.approx(diagnostic.optimal(**options), rel=1e-12)
        random = tree.evaluate(tree.uniform()).expected_return
        assert random == pytest.approx(diagnostic.random(**options), rel=1e-12), options


@pytest.mark.slow
@pytest.mark.parametrize("diagnostic", EVERY, ids=named)
def test_sizes_that_can_be_enumerated(diagnostic: Diagnostic) -> None:
    for size in diagnostic.enumerable:
        tree = build_tree(diagnostic.env_id, **diagnostic.options(size))
        assert tree.optimum().expected_return == pytest.approx(diagnostic.optimal_return(size), rel=1e-12)
        random = tree.evaluate(tree.uniform()).expected_return
        assert random == pytest.approx(diagnostic.random_return(size), rel=1e-12)


def test_the_true_score_behind_the_proxy_is_what_the_solver_finds() -> None:
    proxy = DIAGNOSTICS["proxy"]
    assert proxy.bounds is not None
    for options in TINY["proxy"]:

        def mean_reward(transition: Any, reward: float, length: int = options["length"]) -> float:
            words = [piece for piece in transition.transcript.response.split(" ") if piece.endswith("0")]
            return true_score(len(words), length) if transition.ended else 0.0

        tree = build_tree(proxy.env_id, **options, mean_reward=mean_reward)
        random, optimal = proxy.bounds(**options)
        assert tree.optimum().expected_return == pytest.approx(optimal)
        assert tree.evaluate(tree.uniform()).expected_return == pytest.approx(random)
        greedy = build_tree(proxy.env_id, **options).optimum().policy
        assert tree.evaluate(greedy).expected_return == 0.0  # who is best by the proxy has nothing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("diagnostic", EVERY, ids=named)
def test_random_tokens_earn_the_random_return(diagnostic: Diagnostic, size: str) -> None:
    envs = diagnostic.make_vec(size, 100, autoreset_mode="disabled")
    rng = np.random.default_rng(0)
    episodes = play(envs, lambda *_: rng.integers(envs.single_action_space.n, size=100), 500, seed=0)
    returns = np.array([episode.episode_return for episode in episodes])
    expected = diagnostic.random_return(size)
    most = diagnostic.optimal_return(size)
    spread = max(returns.std(), (expected * most) ** 0.5)  # of a return that is seldom seen at all
    assert abs(returns.mean() - expected) < 4.5 * spread / len(returns) ** 0.5
    assert 0.0 <= diagnostic.score(episodes, size) < 0.4


def test_the_table_is_whole() -> None:
    assert len(DIAGNOSTICS) >= 10
    for name, diagnostic in DIAGNOSTICS.items():
        assert diagnostic.name == name and diagnostic.env_id in ENVIRONMENTS
        assert tuple(diagnostic.sizes) == SIZES
        varied = {
            key for key in diagnostic.options("small") if len({str(o[key]) for o in diagnostic.sizes.values()}) > 1
        }
        assert len(varied) == 1  # one thing makes it harder
        for size in SIZES:
            assert 0 < diagnostic.random_return(size) < diagnostic.optimal_return(size)
            assert diagnostic.make(size).unwrapped.engine.options is not None
    with pytest.raises(InvalidOptionError, match=r"a size among: large, medium, small; actual: 'smal'"):
        DIAGNOSTICS["credit"].optimal_return("smal")


# --- Playing them right -----------------------------------------------------------------------------------------------


def write(env: gym.Env[Any, Any], response: str, problem: Problem | None = None) -> tuple[list[float], dict[str, Any]]:
    """Rewards and last info of a response written token by token."""
    core: Any = env.unwrapped
    env.reset(seed=0, options={} if problem is None else {"problem": problem})
    rewards: list[float] = []
    for token in core.tokenizer.encode(response):
        _, reward, terminated, truncated, info = env.step(token)
        rewards.append(float(reward))
        if terminated or truncated:
            return rewards, info
    raise AssertionError(f"{response!r} does not end an episode")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("diagnostic", EVERY, ids=named)
def test_the_reference_answer_earns_the_optimum(diagnostic: Diagnostic, size: str) -> None:
    env = diagnostic.make(size)
    env.reset(seed=1)
    problem = env.unwrapped.transcript.problem
    if diagnostic.name in ("noise", "length_bias"):
        problem = replace(problem, accepts=None)  # a verifier that does not err
    rewards, _ = write(env, f"{problem.reference_answer} <eos>", problem)
    best = 1.0 if diagnostic.name in ("noise", "length_bias") else diagnostic.optimal_return(size)
    assert sum(rewards) == pytest.approx(best)


@pytest.mark.parametrize(
    ("env_id", "options", "response", "rewards", "reason"),
    [
        ("DelayedCredit", {"distance": 2}, "7 9 =", [0, 0, 1], "max_new_tokens"),
        ("DelayedCredit", {"distance": 2}, "7 <eos>", [0, 1], "end_token"),
        ("DelayedCredit", {"distance": 2}, "8 0 0 ", [0, 0, 0], "max_new_tokens"),
        ("SecretSequence", {"length": 3}, "1 0 3 ", [0, 0, 1], "max_new_tokens"),
        ("SecretSequence", {"length": 3}, "1 0 2 ", [0, 0, 0], "max_new_tokens"),
        ("SparseReward", {"length": 3}, "4 1 0 ", [0, 0, 1], "max_new_tokens"),
        ("SparseReward", {"length": 3, "dense": True}, "4 0 0 ", [1 / 3, 0, 1 / 3], "max_new_tokens"),
        ("SparseReward", {"length": 3, "dense": True}, "4 =0 ", [1 / 3, 0, 0], "max_new_tokens"),
        ("Vocabulary", {"n_words": 8}, "1 ", [1], "stop_string"),
        ("Vocabulary", {"n_words": 8}, "2 ", [0], "stop_string"),
        ("Vocabulary", {"n_words": 8}, "=1 ", [0, 0], "stop_string"),
        ("Vocabulary", {"n_words": 8}, "===", [0, 0, 0], "max_new_tokens"),
        ("RewardScale", {"scale": 1000.0}, "2 3 <eos>", [0, 0, 1000], "end_token"),
        ("Truncation", {"length": 4}, "0 3 <eos>", [0, 0, 1 / 2], "end_token"),
        ("Truncation", {"length": 4}, "0 3 1 1 <eos>", [0, 0, 0, 0, 1], "end_token"),
        ("Truncation", {"length": 4}, "0 3 1 1 1 ", [0, 0, 0, 0, 0], "max_new_tokens"),
        ("FormatConflict", {"bonus": 0.25}, "=1 0 ", [0, 0, 0.25], "max_new_tokens"),
        ("FormatConflict", {"bonus": 0.25}, "1 0 =", [0, 0, 1], "max_new_tokens"),
        ("MixedDifficulty", {"levels": 2}, "1 <eos>", [0, 0], "end_token"),
    ],
)
def test_rewards_by_hand(
    env_id: str, options: dict[str, Any], response: str, rewards: list[float], reason: str
) -> None:
    env = gym.make(f"llmgym/{env_id}-v0", **options)
    problem = env.unwrapped.task.problems[-1]
    paid, info = write(env, response, problem)
    assert paid == pytest.approx(rewards)
    assert info["stop_reason"] == reason


def test_recall_by_hand() -> None:
    env = gym.make("llmgym/Recall-v0", n_pairs=2, n_values=4)
    for seed in range(20):
        env.reset(seed=seed)
        problem = env.unwrapped.transcript.problem
        shown, asked = problem.question.split(" ? ")
        pairs = dict(zip(*[iter(shown.split())] * 2, strict=True))
        assert sorted(pairs) == ["0", "1"] and {int(value) for value in pairs.values()} <= set(range(2, 6))
        assert write(env, f"{pairs[asked]} ", problem)[0] == [1.0]
        wrong = next(str(value) for value in range(2, 6) if str(value) != pairs[asked])
        assert write(env, f"{wrong} ", problem)[0] == [0.0]


def test_the_proxy_is_paid_and_the_truth_is_told() -> None:
    env = gym.make("llmgym/ProxyReward-v0", length=4)
    for response, paid, true in (
        ("0 0 0 0 ", 1.0, 0.0),
        ("0 =0 1 ", 0.5, 1.0),
        ("0 <eos>", 0.25, 0.5),
        ("<eos>", 0, 0),
    ):
        rewards, info = write(env, response)
        assert sum(rewards) == paid and info["reward_components"]["proxy"] == paid
        assert info["reward_details"] == {"proxy": {"true_score": true}}


# --- Noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "response"), [("NoisyReward", "0 "), ("LengthBias", "0 1 <eos>")])
def test_noise_comes_with_the_problem(env_id: str, response: str) -> None:
    """From the environment's own generator: the same seed errs alike, a restored state too, and episodes differ."""
    env: Any = gym.make(f"llmgym/{env_id}-v0", flip=0.4)

    def verdicts(n: int) -> list[float]:
        return [sum(write_on(env, response)) for _ in range(n)]

    env.reset(seed=5)
    first = verdicts(200)
    env.reset(seed=5)
    assert verdicts(200) == first
    assert np.mean(first) == pytest.approx(0.6, abs=4.5 * (0.24 / 200) ** 0.5)
    env.reset(seed=7)
    state = env.unwrapped.clone_state()
    fates = set()
    for _ in range(5):
        env.unwrapped.restore_state(state)
        fates.add(sum(write_on(env, response, reset=False)))
    assert len(fates) == 1


def write_on(env: Any, response: str, *, reset: bool = True) -> list[float]:
    if reset:
        env.reset()
    return [float(env.step(token)[1]) for token in env.unwrapped.tokenizer.encode(response)]


def test_in_a_group_the_same_response_meets_the_same_verdict_and_others_do_not() -> None:
    envs = gym.make_vec("llmgym/LengthBias-v0", num_envs=64, flip=0.4, budget=4)
    envs.reset(seed=0, options={"group_size": 64})
    for _ in range(3):
        actions = np.arange(64) % 8 + 5
        _, rewards, _, _, _ = envs.step(actions)
    actions = np.arange(64) // 8 + 5
    _, rewards, _, truncated, _ = envs.step(actions)
    assert truncated.all()
    right = rewards[np.arange(64) % 8 < 4]  # 32 different responses of one group, all right
    assert 0.3 < right.mean() < 0.9
    again = gym.make_vec("llmgym/LengthBias-v0", num_envs=4, flip=0.4, budget=1)
    _, infos = again.reset(seed=0, options={"group_size": 4})
    assert len(set(infos["problem_id"])) == 1
    _, rewards, _, _, _ = again.step(np.full(4, 5))
    assert len(set(rewards)) == 1


# --- One engine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diagnostic", EVERY, ids=named)
def test_native_vector_is_sync(diagnostic: Diagnostic) -> None:
    options = diagnostic.options("small")
    native = gym.make_vec(diagnostic.env_id, num_envs=3, **options)
    sync = SyncVectorEnv([lambda: gym.make(diagnostic.env_id, **options, disable_env_checker=True)] * 3)
    rng = np.random.default_rng(0)
    assert data_equivalence(native.reset(seed=3), sync.reset(seed=3), exact=True)
    for _ in range(15):
        actions = rng.integers(native.single_action_space.n, size=3)
        ours, theirs = native.step(actions), sync.step(actions)
        assert data_equivalence(ours[:4], theirs[:4], exact=True)
        assert set(ours[4]) == set(theirs[4])


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_a_split_is_taken_and_changes_nothing(split: str) -> None:
    ids = {gym.make("llmgym/Recall-v0", split=s).reset(seed=0)[1]["problem_id"] for s in (split, "all")}
    assert len(ids) == 1


def test_agents_train_on_them_and_are_evaluated() -> None:
    pytest.importorskip("torch")
    from llmgym.agents import GRPO, Policy
    from tests.unit.agent_fakes import tiny_llama

    options = {"problems_per_iteration": 2, "n_minibatches": 1, "group_size": 4, "run_dir": None}
    agent = GRPO(tiny_llama(n_actions(6)), "llmgym/Recall-v0", **options)
    agent.learn(total_timesteps=8, progress_bar=False)
    assert 0.0 <= agent.evaluate(n_problems=4).pass_at_1 <= 1.0
    for name in ("truncation", "recall"):  # episodes of several lengths, and several rounds of them
        envs = DIAGNOSTICS[name].make_vec("small", 4, autoreset_mode="disabled")
        policy = Policy(tiny_llama(int(envs.single_action_space.n)))
        episodes = play(envs, lambda *seen: policy.act(*seen)[0], 12)  # noqa: B023
        assert len(episodes) == 12 and (name == "recall" or len({episode.n_new_tokens for episode in episodes}) > 1)


# --- Scores and readings ----------------------------------------------------------------------------------------------


def episode(value: float, **more: Any) -> Episode:
    values: dict[str, Any] = {"response": "", "n_new_tokens": 1, "stop_reason": "end_token", "level": 0}
    return Episode(problem_id="p", episode_return=value, **(values | more))


def test_the_score_is_clipped_and_nothing_else_is() -> None:
    scale = DIAGNOSTICS["scale"]
    low, high = scale.random_return("large"), scale.optimal_return("large")
    for value, score in ((low, 0.0), (high, 1.0), ((low + high) / 2, 0.5)):
        assert scale.normalised(value, "large") == pytest.approx(score)
        assert scale.score([episode(value)], "large") == pytest.approx(score)
    assert scale.normalised(1500.0, "large") > 1.5 and scale.score([episode(1500.0)], "large") == 1.0
    assert scale.normalised(0.0, "large") < -0.1 and scale.score([episode(0.0)], "large") == 0.0
    assert scale.readings([episode(999.5)], "large") == {"regret": pytest.approx(0.5)}
    with pytest.raises(InvalidOptionError, match="at least one episode"):
        scale.score([], "large")


@pytest.mark.parametrize(("name", "wrong"), [("noise", "1 "), ("length_bias", "4 0 ")])
def test_the_errors_of_a_verifier_are_not_in_the_score(name: str, wrong: str) -> None:
    """The score is a straight line of what a response is paid on average over the errors, and knows none of them."""
    diagnostic = DIAGNOSTICS[name]
    for size in SIZES:
        env = diagnostic.make(size, action_unit="response")
        paid = []
        for response in ("0 ", wrong):
            rewards = [(env.reset(seed=seed), env.step(response)[1])[1] for seed in range(400)]
            paid.append(np.mean(rewards))
        right, mistaken = [episode(0.0, response="0 ")], [episode(1.0, response=wrong)]
        assert diagnostic.score(right, size) == 1.0 and diagnostic.score(mistaken, size) == 0.0
        best, low = diagnostic.optimal_return(size), diagnostic.random_return(size)
        assert paid[0] == pytest.approx(best, abs=0.08)
        expected = (1.0 - best - low) / (best - low)
        assert diagnostic.normalised(0.0, size) == pytest.approx(expected)
        assert (paid[1] - low) / (best - low) == pytest.approx(expected, abs=0.1 / (best - low))


def test_the_proxy_is_scored_by_the_truth() -> None:
    proxy = DIAGNOSTICS["proxy"]
    hacked = [episode(1.0, details={"proxy": {"true_score": 0.0}})]
    honest = [episode(0.5, details={"proxy": {"true_score": 1.0}})]
    assert proxy.score(hacked, "small") == 0.0 and proxy.score(honest, "small") == 1.0
    assert proxy.readings(hacked, "small") == {"regret": 0.0, "proxy": 1.0, "true": 0.0, "hacked": 1.0}


def test_readings() -> None:
    lengths = [episode(1.0, n_new_tokens=3), episode(0.0, n_new_tokens=5, stop_reason="max_new_tokens")]
    assert DIAGNOSTICS["truncation"].reading(lengths) == {"mean_length": 4.0, "truncated": 0.5}
    levels = [episode(1.0, level=1), episode(0.0, level=2), episode(1.0, level=2)]
    assert DIAGNOSTICS["difficulty"].reading(levels) == {"level_1": 1.0, "level_2": 0.5}
    parts: Sequence[dict[str, float]] = ({"accepted": 1.0, "shape": 0.0}, {"accepted": 0.0, "shape": 0.5})
    conflict = DIAGNOSTICS["format_conflict"].reading([episode(0.0, components=part) for part in parts])
    assert conflict == {"right": 0.5, "in_form": 0.5}
    assert length_drift(lengths[:1], [episode(0.0, n_new_tokens=12)]) == 2.0
    assert length_drift(lengths, lengths) == 0.0


def test_play_scores_a_policy_that_knows_the_answer() -> None:
    envs = DIAGNOSTICS["difficulty"].make_vec("small", 8, autoreset_mode="disabled")
    after: dict[int, int] = {3: 6, 6: 5}  # the first secret word after the equals sign, then the second

    def choose(observations: Any, restarted: Any, waiting: Any) -> Any:
        last = observations["attention_mask"].sum(axis=1) - 1
        return np.array([after.get(token, 1) for token in observations["input_ids"][np.arange(8), last].tolist()])

    episodes = play(envs, choose, 20, seed=0)
    assert len(episodes) == 24 and DIAGNOSTICS["difficulty"].score(episodes, "small") == 1.0
    assert {(e.response, e.n_new_tokens, e.stop_reason) for e in episodes} == {("1 0 ", 2, "max_new_tokens")}
    assert {e.level for e in episodes} == {1, 2} and episodes[0].components == {"accepted": 1.0}
    assert [e.problem_id for e in play(envs, choose, 8, seed=0)] == [e.problem_id for e in episodes[:8]]
    with pytest.raises(InvalidOptionError, match="autoreset disabled"):
        play(DIAGNOSTICS["difficulty"].make_vec("small", 8), choose, 8)


# --- Arguments --------------------------------------------------------------------------------------------------------


def test_words() -> None:
    assert leading_words("3 12 =4 ") == [3, 12] and leading_words("") == [] and leading_words("<eos>1 ") == []
    assert FirstBelow(2)("1") and FirstBelow(2)("1 9 ") and not FirstBelow(2)("2 ") and not FirstBelow(2)("")
    assert len(leading_words("7" * 100_000)) == 0  # in linear time


@pytest.mark.parametrize(
    ("env_id", "options", "complaint"),
    [
        ("DelayedCredit", {"distance": -1}, r"`distance` to be an int in \[0, 512\], actual: -1"),
        ("SecretSequence", {"length": 0}, r"`length` to be an int in \[1, 32\], actual: 0"),
        ("SparseReward", {"dense": 1}, "`dense` to be True or False, actual: 1"),
        ("Recall", {"n_pairs": True}, "`n_pairs` to be an int.*actual: True"),
        ("Vocabulary", {"n_words": 3}, r"`n_words` to be an int in \[4,"),
        ("NoisyReward", {"flip": 0.5}, r"`flip` to be a number in \[0, 0.5\), actual: 0.5"),
        ("LengthBias", {"budget": 0}, "`budget`"),
        ("RewardScale", {"scale": 0}, "`scale` to be a finite number > 0, actual: 0"),
        ("Truncation", {"length": 600}, "`length`"),
        ("FormatConflict", {"bonus": 1.0}, r"`bonus` to be a number in \[0, 1.0\), actual: 1.0"),
        ("ProxyReward", {"length": 1}, "`length`"),
        ("MixedDifficulty", {"levels": 5, "n_words": 4}, r"`n_words` to be an int in \[5,"),
        ("Recall", {"split": "dev"}, "`split` among: all, test, train; actual: 'dev'"),
        ("Recall", {"n_pair": 2}, "Did you mean 'n_pairs'"),
    ],
)
def test_wrong_arguments(env_id: str, options: dict[str, Any], complaint: str) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(InvalidOptionError, match=complaint):
            make(f"llmgym/{env_id}-v0", **options)
