"""The exact solver against numbers worked by hand, brute force, finite differences and sampling."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

import llmgym
from llmgym.envs.diagnostics.words import AcceptedReward, word_tokenizer
from llmgym.errors import InvalidOptionError, WrongEnvironmentError
from llmgym.tasks import LastReply, Problem
from llmgym.testing import SumTask, tiny_tokenizer
from llmgym.testing.exact import State, Tree, build_tree
from llmgym.transcript import Transcript, Transition

END, UNKNOWN, MARK = 1, 2, 3


def words(*numbers: int) -> list[int]:
    return [5 + number for number in numbers]


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def secret() -> Tree:
    """Two words out of two, in the order 1, 0; seven tokens."""
    return build_tree("llmgym/SecretSequence-v0", length=2, n_words=2)


@pytest.fixture(scope="module")
def dense() -> Tree:
    """Up to two words, each paid for: 0 or 1 first, then the other."""
    return build_tree("llmgym/SparseReward-v0", length=2, n_words=2, dense=True)


# --- The tree ---------------------------------------------------------------------------------------------------------


def test_states_and_edges_by_hand(secret: Tree) -> None:
    prompt = (4, 3)  # the question mark and the equals sign
    others = [token for token in range(7) if token != END]
    assert secret.actions.tolist() == list(range(7))
    assert secret.states[0] == State(prompt, 2)
    assert [state.ids for state in secret.states[1:]] == [(*prompt, token) for token in others]
    assert secret.start.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert secret.depth.tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert secret.edge_state.tolist() == [0] * 6 and secret.edge_action.tolist() == others
    assert secret.edge_next.tolist() == [1, 2, 3, 4, 5, 6] and secret.edge_probability.tolist() == [1] * 6
    paid = np.zeros((7, 7))
    paid[6, 5] = 1.0  # after word 1 (token 6, the last state), word 0
    assert np.array_equal(secret.rewards, paid)


def test_the_optimum_by_hand(secret: Tree) -> None:
    best = secret.optimum()
    assert best.expected_return == 1.0
    assert best.values.tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert best.action_values[0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert best.policy[0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert best.policy[1].tolist() == [1 / 7] * 7  # nothing can be won any more: all actions are best
    assert secret.evaluate(best.policy).expected_return == 1.0
    assert secret.optimum(gamma=0.5).values[0] == 0.5


def test_a_policy_by_hand(secret: Tree) -> None:
    uniform = secret.evaluate(secret.uniform())
    assert uniform.expected_return == pytest.approx(1 / 49)
    assert uniform.values[6] == pytest.approx(1 / 7)
    assert uniform.visits.tolist() == pytest.approx([1] + [1 / 7] * 6)
    assert uniform.advantages[6, 5] == pytest.approx(6 / 7)
    assert uniform.gradient[6, 5] == pytest.approx(1 / 7 * 1 / 7 * 6 / 7)
    assert uniform.gradient[0, 6] == pytest.approx(1 / 7 * (1 / 7 - 1 / 49))
    assert np.allclose(uniform.gradient.sum(axis=1), 0)
    half = secret.evaluate(secret.uniform(), gamma=0.5)
    assert half.expected_return == pytest.approx(0.5 / 49) and half.visits[1] == pytest.approx(0.5 / 7)


def test_every_response_played_from_the_beginning_earns_what_the_tree_says(dense: Tree) -> None:
    env = gym.make("llmgym/SparseReward-v0", length=2, n_words=2, dense=True)
    by_ids = {state.ids: row for row, state in enumerate(dense.states)}
    total = 0.0
    for response in itertools.product(range(7), repeat=2):
        env.reset(seed=0)
        ids: tuple[int, ...] = (4, 3)
        chance = 1.0
        for token in response:
            _, reward, terminated, truncated, _ = env.step(token)
            assert dense.rewards[by_ids[ids], token] == reward
            chance /= 7
            total += 7 ** (len(ids) - 3) * chance * float(reward)  # the first token begins seven of these responses
            if terminated or truncated:
                break
            ids = (*ids, token)
    assert dense.evaluate(dense.uniform()).expected_return == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_the_gradient_is_that_of_the_expected_return(dense: Tree, gamma: float) -> None:
    logits = np.random.default_rng(0).normal(size=dense.rewards.shape)
    exact = dense.evaluate(softmax(logits), gamma)
    for place in [(0, 1), (0, 5), (3, 6), (6, 5)]:
        step = np.zeros_like(logits)
        step[place] = 1e-5
        above, below = (dense.evaluate(softmax(logits + sign * step), gamma).expected_return for sign in (1, -1))
        assert exact.gradient[place] == pytest.approx((above - below) / 2e-5, abs=1e-9)


def test_bellmans_equations_hold(dense: Tree) -> None:
    policy = softmax(np.random.default_rng(1).normal(size=dense.rewards.shape))
    of = dense.evaluate(policy, gamma=0.9)
    again = dense.rewards.copy()
    for s, a, n, p in zip(dense.edge_state, dense.edge_action, dense.edge_next, dense.edge_probability, strict=True):
        again[s, a] += 0.9 * p * of.values[n]
    assert np.allclose(again, of.action_values) and np.allclose((policy * again).sum(axis=1), of.values)
    assert np.all(dense.optimum().values >= dense.evaluate(policy).values)


# --- KL ---------------------------------------------------------------------------------------------------------------


def test_the_kl_of_whole_responses(dense: Tree) -> None:
    """Against the sum over all responses of ``p log(p / q)``, and its gradient by differences."""
    rng = np.random.default_rng(2)
    logits, other = rng.normal(size=dense.rewards.shape), softmax(rng.normal(size=dense.rewards.shape))

    def by_enumeration(policy: np.ndarray) -> float:
        following = {(s, a): n for s, a, n in zip(dense.edge_state, dense.edge_action, dense.edge_next, strict=True)}
        total = 0.0
        for first in range(7):
            after = following.get((0, first))
            for p, q in (
                [(policy[0, first], other[0, first])]
                if after is None
                else [(policy[0, first] * policy[after, a], other[0, first] * other[after, a]) for a in range(7)]
            ):
                total += p * math.log(p / q)
        return total

    exact = dense.kl(softmax(logits), other)
    assert exact.total == pytest.approx(by_enumeration(softmax(logits)), abs=1e-12)
    local = 0.0
    for place in [(0, 1), (0, 5), (4, 6)]:
        step = np.zeros_like(logits)
        step[place] = 1e-5
        above, below = (by_enumeration(softmax(logits + sign * step)) for sign in (1, -1))
        assert exact.gradient[place] == pytest.approx((above - below) / 2e-5, abs=1e-8)
        visits = dense.evaluate(softmax(logits)).visits
        above, below = (visits @ dense.kl(softmax(logits + sign * step), other).by_state for sign in (1, -1))
        assert exact.local_gradient[place] == pytest.approx((above - below) / 2e-5, abs=1e-8)
        local = max(local, abs(exact.gradient[place] - exact.local_gradient[place]))
    assert local > 1e-3  # the two differ where a token leads to other states
    assert dense.kl(other, other).total == 0.0


def test_kl_is_infinite_where_the_other_never_goes(dense: Tree) -> None:
    assert dense.kl(dense.uniform(), dense.optimum().policy).total == math.inf
    assert np.isnan(dense.kl(dense.uniform(), dense.optimum().policy).gradient).all()
    assert dense.kl(dense.optimum().policy, dense.uniform()).total == pytest.approx(2 * math.log(7))


def test_kl_does_not_look_where_nobody_goes(dense: Tree) -> None:
    """Beyond a first token that is never chosen, any difference will do."""
    policy, other = dense.uniform(), dense.uniform()
    policy[0] = other[0] = [0.5, 0.5, 0, 0, 0, 0, 0]  # state 1 comes after token 0, the others are not reached
    other[3] = np.eye(7)[0]
    exact = dense.kl(policy, other)
    assert exact.by_state[3] == math.inf and exact.total == 0.0 and not exact.gradient.any()


def test_the_best_policy_at_a_price_of_the_kl(dense: Tree) -> None:
    """Each response as likely as ``reference exp(return / price)``: by hand, and no other policy is worth more."""
    rng, price = np.random.default_rng(4), 0.3
    reference = softmax(rng.normal(size=dense.rewards.shape))
    policy = dense.penalised_optimum(reference, price)

    following = {(s, a): n for s, a, n in zip(dense.edge_state, dense.edge_action, dense.edge_next, strict=True)}
    tilted, chances = [], []
    for first, second in itertools.product(range(7), range(7)):
        after = following.get((0, first))
        if after is None and second:
            continue  # the response ends with its first token
        pairs = [(0, first)] if after is None else [(0, first), (after, second)]
        tilted.append(
            math.prod(reference[at] for at in pairs) * math.exp(sum(dense.rewards[at] for at in pairs) / price)
        )
        chances.append(math.prod(policy[at] for at in pairs))
    assert chances == pytest.approx(np.array(tilted) / sum(tilted), abs=1e-14)

    def objective(candidate: np.ndarray) -> float:
        return dense.evaluate(candidate).expected_return - price * dense.kl(candidate, reference).total

    for _ in range(20):
        other = softmax(np.log(policy) + 0.1 * rng.normal(size=policy.shape))
        assert objective(other) < objective(policy)
    assert np.abs(dense.penalised_optimum(reference, 1e6) - reference).max() < 1e-5
    assert dense.evaluate(dense.penalised_optimum(reference, 1e-3)).expected_return == pytest.approx(1.0)
    with pytest.raises(ValueError, match="kl_coef > 0.*actual: 0"):
        dense.penalised_optimum(reference, 0.0)


# --- Sampling ---------------------------------------------------------------------------------------------------------


def test_samples_come_as_often_as_they_should(dense: Tree) -> None:
    policy = softmax(np.random.default_rng(3).normal(size=dense.rewards.shape))
    n = 20_000
    episodes = dense.sample(policy, n, np.random.default_rng(4))
    exact = dense.evaluate(policy)
    seen = np.zeros_like(policy)
    np.add.at(seen, (episodes.states[episodes.mask], episodes.actions[episodes.mask]), 1 / n)
    expected = exact.visits[:, None] * policy
    assert np.all(np.abs(seen - expected) <= 5 * np.sqrt(expected / n))
    returns = episodes.rewards.sum(axis=1)
    assert returns.mean() == pytest.approx(exact.expected_return, abs=5 * returns.std() / n**0.5)
    assert np.array_equal(episodes.mask, np.sort(episodes.mask, axis=1)[:, ::-1])  # no holes
    ended = episodes.actions[:, 0] == END
    assert not episodes.mask[ended, 1].any() and episodes.mask[~ended, 1].all()


# --- What may be random -----------------------------------------------------------------------------------------------


def test_problems_that_look_the_same_are_one_state() -> None:
    """A verifier that errs: one first state for all its errors, whose rewards are expectations."""
    tree = build_tree("llmgym/NoisyReward-v0", flip=0.1, n_words=2)
    assert tree.start.tolist() == [1.0] + [0.0] * (len(tree.states) - 1)  # and not eight of them
    assert tree.rewards[0, words(0)[0]] == pytest.approx(0.9)
    assert tree.rewards[0, words(1)[0]] == pytest.approx(0.1)
    assert tree.rewards[0, END] == pytest.approx(0.1)
    assert tree.optimum().expected_return == pytest.approx(0.9)


@dataclass(frozen=True)
class HiddenCoin:
    """The environment answers the first word with a coin that was tossed beforehand, 3 to 1 for word 0."""

    replies: ClassVar[bool] = True

    def sample(self, rng: np.random.Generator) -> Problem:
        return self.tossed(int(rng.random() < 0.25))

    @staticmethod
    def tossed(side: int) -> Problem:
        return Problem("?", f"{side}", f"coin:{side}")

    def outcomes(self) -> list[tuple[float, Problem]]:
        return [(0.75, self.tossed(0)), (0.25, self.tossed(1))]

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        n_turns = sum(author.name == "AGENT" for author, _ in transcript.segments)
        return f"{problem.reference_answer} " if n_turns == 1 else LastReply("= ")


class LastWordReward(AcceptedReward):
    """1 if the last word that the agent wrote is the answer."""

    name = "last_word"

    def score(self, transcript: Transcript) -> float:
        return float(transcript.response.split()[-1:] == [transcript.problem.reference_answer])


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(llmgym.rewards.REWARDS, "last_word", LastWordReward)
    options = {"tokenizer": word_tokenizer(2), "prompt_template": "{question} =", "step_delimiter": " "}
    return llmgym.LanguageEnv(
        HiddenCoin(), **options, max_prompt_tokens=4, max_new_tokens=2, stop_strings=(" ",), rewards={"last_word": 1.0}
    )


def test_what_the_environment_writes_may_depend_on_what_is_hidden(coin: Any) -> None:
    """Two ways on from one action; and the answer is known only after the first word."""
    tree = build_tree(coin, actions=words(0, 1))
    first = tree.edge_state == 0
    assert tree.edge_probability[first].tolist() == [0.75, 0.25, 0.75, 0.25]
    assert len(tree.states) == 1 + 4
    best = tree.optimum()
    assert best.expected_return == 1.0  # wait for the coin, then say it
    blind = tree.policy(lambda state: [1.0, 0.0])
    assert tree.evaluate(blind).expected_return == 0.75
    assert tree.evaluate(blind).visits.tolist() == [1, 0.75, 0.25, 0, 0]
    episodes = tree.sample(tree.uniform(), 4000, np.random.default_rng(0))
    share = np.isin(episodes.states[:, 1], tree.edge_next[[0, 2]]).mean()
    assert share == pytest.approx(0.75, abs=0.035)


class NoisyEnv(llmgym.LanguageEnv):
    """Adds noise from the environment's own generator to every reward, or to what it looks like."""

    spoils_ids = False

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        noise = float(self.np_random.normal())
        if self.spoils_ids:
            observation["input_ids"][0] = int(noise > 0)
        return observation, reward + noise, *rest


class SpoilingEnv(NoisyEnv):
    spoils_ids = True


def noisy(kind: type[NoisyEnv]) -> NoisyEnv:
    task = gym.make("llmgym/SecretSequence-v0", length=2, n_words=2).unwrapped.task
    options = {"tokenizer": word_tokenizer(2), "prompt_template": "{question} =", "step_delimiter": " "}
    return kind(task, **options, max_prompt_tokens=2, max_new_tokens=2, rewards={"accepted": 1.0})


def true_reward(transition: Transition, reward: float) -> float:
    return float(transition.ended and transition.transcript.response.startswith("1 0 "))


def test_a_random_reward_needs_a_mean(secret: Tree) -> None:
    with pytest.raises(ValueError, match=r"not random, or rewards with a declared mean, actual: the action 0 draws"):
        build_tree(noisy(NoisyEnv))
    tree = build_tree(noisy(NoisyEnv), mean_reward=true_reward)
    assert np.array_equal(tree.rewards, secret.rewards) and tree.states == secret.states


def test_a_random_transition_is_refused_even_so() -> None:
    with pytest.raises(ValueError, match="may change what comes after it"):
        build_tree(noisy(SpoilingEnv), mean_reward=true_reward)


def test_a_task_declares_the_mean_of_its_own_noise() -> None:
    tree = build_tree("llmgym/LengthBias-v0", budget=2, flip=0.25, n_words=2)
    ends = tree.rewards[0, END]
    assert ends == 0.25 and tree.optimum().expected_return == 0.75
    assert set(np.unique(tree.rewards)) == {0.0, 0.25, 0.75}


# --- What cannot work -------------------------------------------------------------------------------------------------


def test_errors() -> None:
    with pytest.raises(InvalidOptionError, match=r"at most 5 states.*actual: more, after 1 actions with 7 choices"):
        build_tree("llmgym/SecretSequence-v0", length=2, n_words=2, max_states=5)
    with pytest.raises(InvalidOptionError, match=r"at most 10 states"):
        build_tree("llmgym/Recall-v0", max_states=10)
    with pytest.raises(InvalidOptionError, match="Expected token actions"):
        build_tree("llmgym/SecretSequence-v0", action_unit="response")
    with pytest.raises(InvalidOptionError, match=r"lists its problems .*actual: SumTask"):
        build_tree(llmgym.LanguageEnv(SumTask(), tokenizer=tiny_tokenizer()))
    with pytest.raises(WrongEnvironmentError, match="actual: CartPoleEnv"):
        build_tree("CartPole-v1")
    env = gym.make("llmgym/SecretSequence-v0", length=2, n_words=2)
    problem = env.unwrapped.task.problems[0]
    with pytest.raises(InvalidOptionError, match=r"sum to 1, actual: 0.5 over 1"):
        build_tree(env, outcomes=[(0.5, problem)])
    with pytest.raises(InvalidOptionError, match=r"probability >= 0 .*actual: -1"):
        build_tree(env, outcomes=[(-1.0, problem), (2.0, problem)])
    with pytest.raises(InvalidOptionError, match=r"made already, actual: \['length'\]"):
        build_tree(env, length=3)


def test_what_is_no_policy(secret: Tree) -> None:
    with pytest.raises(ValueError, match=r"shape \(7, 7\).*actual: \(2, 2\)"):
        secret.evaluate(np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="sum to 1 in each state.*in state 0"):
        secret.policy(lambda state: [0.5] * 7)
    with pytest.raises(ValueError, match="sum to 1 in each state"):
        secret.sample(np.full((7, 7), np.nan), 1, np.random.default_rng(0))


def test_outcomes_can_be_given_for_a_task_that_lists_none() -> None:
    env = gym.make("llmgym/Copy-v0", n_digits=1, n_symbols=2, split="all")
    problems = [Problem(digit, digit, digit) for digit in "01"]
    tree = build_tree(env, outcomes=[(0.5, problem) for problem in problems])
    assert tree.start[:2].tolist() == [0.5, 0.5] and tree.optimum().expected_return == 1.0


# --- Models -----------------------------------------------------------------------------------------------------------


def test_models(dense: Tree) -> None:
    """The gradient by autograd through a model is that of the policy gradient theorem; and the KL agrees."""
    torch = pytest.importorskip("torch")
    from llmgym.agents.policies import Policy
    from llmgym.testing import exact_policies
    from tests.unit.agent_fakes import tiny_llama

    policy, reference = (Policy(tiny_llama(7, seed).double(), n_actions=7) for seed in (0, 1))
    parameters = list(policy.model.parameters())
    chances = exact_policies.table_of(dense, policy)
    logprobs = exact_policies.log_probabilities(dense, policy)
    assert np.allclose(chances, logprobs.detach().exp().numpy(), atol=1e-6)
    exact = dense.evaluate(chances)
    assert exact_policies.expected_return(dense, logprobs).item() == pytest.approx(exact.expected_return, abs=1e-6)

    by_sum = exact_policies.model_gradient(dense, policy, parameters)
    theorem = torch.autograd.grad(
        (torch.from_numpy(exact.visits[:, None] * chances * exact.action_values) * logprobs).sum(),
        parameters,
        materialize_grads=True,
    )
    assert by_sum.norm() > 0.1
    assert torch.allclose(by_sum, torch.cat([gradient.flatten() for gradient in theorem]), atol=1e-5)

    ref_logprobs = exact_policies.log_probabilities(dense, reference)
    kl = exact_policies.sequence_kl(dense, exact_policies.log_probabilities(dense, policy), ref_logprobs)
    assert kl.item() == pytest.approx(dense.kl(chances, exact_policies.table_of(dense, reference)).total, abs=1e-5)


def test_models_with_forbidden_tokens_and_what_cannot_work(dense: Tree) -> None:
    pytest.importorskip("torch")
    from llmgym.agents.policies import Policy
    from llmgym.testing import exact_policies
    from tests.unit.agent_fakes import tiny_llama

    model = tiny_llama(7)
    bound = exact_policies.table_of(dense, Policy(model, n_actions=7, forbidden={MARK: [END, UNKNOWN]}))
    assert bound[0, END] == bound[0, UNKNOWN] == 0 and bound[1, END] > 0  # the prompt ends with the mark
    assert np.allclose(bound.sum(axis=1), 1)
    with pytest.raises(InvalidOptionError, match="choose every token, actual: top_k=2"):
        exact_policies.table_of(dense, Policy(model, n_actions=7, top_k=2))
    with pytest.raises(InvalidOptionError, match=r"without a grammar, actual: grammar='\(a\|b\)"):
        exact_policies.table_of(dense, Policy(model, n_actions=7, grammar="(a|b)"))
    few = build_tree("llmgym/SparseReward-v0", length=2, n_words=2, dense=True, actions=words(0, 1))
    with pytest.raises(ValueError, match="every action of the policy"):
        exact_policies.table_of(few, Policy(model, n_actions=7))
