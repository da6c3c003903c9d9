"""A policy's grammar: what acting samples from is what learning normalises over, and both are what the pattern says.

The pattern has few matches, so the tokens that it allows are found by listing them: no automaton is asked.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llmgym.agents import GRPO, PPO, collect, evaluate  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch  # noqa: E402
from llmgym.agents.samplers import SampledPolicy  # noqa: E402
from llmgym.agents.sampling import TokenDistribution, unpack_sets  # noqa: E402
from llmgym.envs.copy import copy_tokenizer  # noqa: E402
from llmgym.errors import InvalidActionError, InvalidOptionError  # noqa: E402
from llmgym.tokenizers import pieces_tokenizer  # noqa: E402
from tests.parity.test_policy_parity import full_logprobs, observe  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, echo_envs, tiny_llama  # noqa: E402

TOKENIZER = copy_tokenizer(5)
PAD, END, UNKNOWN, EQUALS, ZERO, ONE, TWO, THREE, FOUR = range(VOCABULARY)
PATTERN = r"([0-2] ){1,3}(=|3 4 )?"
MATCHES = {
    "".join(digits) + end
    for n in (1, 2, 3)
    for digits in product(("0 ", "1 ", "2 "), repeat=n)
    for end in ("", "=", "3 4 ")
}
BOUND = {"temperature": 0.7, "forbidden": {ZERO: [ZERO], TWO: [END, EQUALS]}}


def make_policy(grammar: str | None = PATTERN, vocab_size: int = VOCABULARY, **options: Any) -> Policy:
    model = tiny_llama(vocab_size).double()
    return Policy(model, TOKENIZER, **({"grammar": grammar, "n_actions": VOCABULARY, "seed": 1} | options))


def listed(turn: list[int]) -> list[int]:
    """The tokens that may follow in a turn, out of the list of all matches."""
    text = "".join(TOKENIZER.token_text(token) for token in turn)
    texts = {t: text + TOKENIZER.token_text(t) for t in range(VOCABULARY) if t not in (PAD, END, UNKNOWN)}
    allowed = [t for t, longer in texts.items() if any(match.startswith(longer) for match in MATCHES)]
    return allowed + ([END] if text in MATCHES else [])


class Episode(NamedTuple):
    """Ids behind the prompt; of the tokens chosen, their places, log-probabilities, and what could be chosen."""

    prompt: list[int]
    response: list[int]
    places: list[int]
    sampled: list[float]
    allowed: list[list[int]]

    def expected(self, policy: Policy) -> tuple[list[float], list[float]]:
        """Log-probabilities and entropies by one plain pass over the transcript, and softmax over the list."""
        logits = full_logprobs(policy.model, self.prompt + self.response) / policy.temperature
        chosen, entropies = [], []
        for place, allowed in zip(self.places, self.allowed, strict=True):
            every = logits[len(self.prompt) + place - 1][allowed].double().log_softmax(-1)
            chosen.append(float(every[allowed.index(self.response[place])]))
            entropies.append(float(-(every.exp() * every).sum()))
        return chosen, entropies


def play(policy: Policy, n_steps: int = 12) -> list[Episode]:
    """Slots that share prompts, end and restart, sit out, and are written to; each step is checked against the list."""
    prompts = [[EQUALS], [FOUR, EQUALS], [FOUR, EQUALS], [ONE, TWO, THREE, EQUALS], [ONE]]
    n = len(prompts)
    episodes = [Episode(prompt, [], [], [], []) for prompt in prompts]
    turns: list[list[int]] = [[] for _ in prompts]
    done: list[Episode] = []
    restarted, waiting = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for step in range(n_steps):
        waiting[4] = step in (1, 4, 5)
        transcripts = [e.prompt + e.response for e in episodes]
        actions, logprobs = policy.act(observe(transcripts), restarted, waiting)
        restarted[~waiting] = False
        for slot in np.flatnonzero(~waiting).tolist():
            episode, token = episodes[slot], int(actions[slot])
            allowed = [t for t in listed(turns[slot]) if t not in policy.forbidden.get(transcripts[slot][-1], ())]
            assert token in allowed
            episode.places.append(len(episode.response))
            episode.sampled.append(float(logprobs[slot]))
            episode.allowed.append(allowed)
            episode.response.append(token)
            turns[slot].append(token)
            if (token == END and slot in (0, 3)) or (slot == 1 and step == 5):
                episode.response.extend([THREE, THREE][: 1 + step % 2])  # the environment answers
                turns[slot] = []
            elif token == END:
                done.append(episode)
                episodes[slot], turns[slot] = Episode(prompts[slot], [], [], [], []), []
                restarted[slot] = True
    return done + [episode for episode in episodes if episode.places]


def arguments(episodes: list[Episode]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``Policy.logprobs`` takes, episodes with one prompt sharing it."""
    distinct = sorted({tuple(episode.prompt) for episode in episodes})
    width, height = max(len(e.response) for e in episodes) + 3, len(episodes)
    prompts = torch.full((len(distinct), 6), FOUR)
    for row, prompt in enumerate(distinct):
        prompts[row, : len(prompt)] = torch.tensor(prompt)
    responses, mask = torch.full((height, width), FOUR), torch.zeros(height, width, dtype=torch.bool)
    for row, episode in enumerate(episodes):
        responses[row, : len(episode.response)] = torch.tensor(episode.response)
        mask[row, episode.places] = True
    index = torch.tensor([distinct.index(tuple(episode.prompt)) for episode in episodes])
    return (prompts, torch.tensor([len(p) for p in distinct]), responses, mask), {"prompt_index": index}


@pytest.mark.parametrize(("how", "options"), [("kept", {}), ("fused", BOUND), ("module", BOUND), ("chunks", {})])
def test_acting_and_learning_normalise_over_what_the_pattern_allows(how: str, options: dict[str, Any]) -> None:
    policy = make_policy(fused=how != "module", **options)
    if how == "kept":
        with policy.keeping_activations():
            episodes = play(policy)
    else:
        episodes = play(policy)
    if how == "chunks":
        policy.max_logits = 5 * VOCABULARY
    given = [episode.expected(policy) for episode in episodes]
    expected, entropies = (
        torch.tensor([number for part in parts for number in part]) for parts in zip(*given, strict=True)
    )
    assert np.allclose([p for episode in episodes for p in episode.sampled], expected, atol=2e-6)
    inputs, more = arguments(episodes)
    mask = inputs[3]
    for learner in (policy, policy.frozen_copy()):
        scores = learner.logprobs(*inputs, **more, with_entropy=True)
        assert torch.allclose(scores.logprobs[mask].float(), expected, atol=2e-6)
        assert torch.allclose(scores.entropy[mask].float(), entropies, atol=2e-6)
    free = make_policy(None, **options).logprobs(*inputs, **more).logprobs  # the same numbers are not had without
    assert not torch.allclose(free[mask].float(), expected, atol=0.1)


def test_the_gradient_stays_within_the_grammar() -> None:
    """Rows of the output layer get none where their token is nowhere allowed."""
    policy = make_policy()
    inputs, more = arguments(play(policy))
    head = policy.model.get_output_embeddings().weight
    policy.logprobs(*inputs, **more).logprobs.sum().backward()
    assert head.grad[[PAD, UNKNOWN]].abs().max() == 0  # never allowed
    assert head.grad[[END, ZERO, ONE]].abs().min() > 0


# --- Rollouts ---------------------------------------------------------------------------------------------------------


def first_ratio(policy: Policy, batch: RolloutBatch) -> float:
    width = batch.prompt_ids.shape[1]
    prompts = np.zeros((len(batch), width), dtype=np.int64)
    for row in range(len(batch)):
        prompts[row, : batch.prompt_lengths[row]] = batch.prompt_of(row)
    logprobs = policy.logprobs(
        torch.from_numpy(prompts),
        torch.from_numpy(batch.prompt_lengths),
        torch.from_numpy(batch.response_ids),
        torch.from_numpy(batch.response_mask),
        allowed=None if batch.allowed is None else torch.from_numpy(batch.allowed),
    ).logprobs
    return float((logprobs.detach().numpy() - batch.old_logprobs)[batch.response_mask].__abs__().max())


def turns_of(batch: RolloutBatch) -> list[list[int]]:
    """What the policy wrote without a break."""
    turns: list[list[int]] = []
    for ids, mask in zip(batch.response_ids, batch.response_mask, strict=True):
        for t in np.flatnonzero(mask).tolist():
            if t == 0 or not mask[t - 1]:
                turns.append([])
            turns[-1].append(int(ids[t]))
    return turns


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}])
def test_in_every_autoreset_mode(mode: AutoresetMode, options: dict[str, Any]) -> None:
    """Three tokens are the budget: some responses are cut off."""
    envs = gym.make_vec("llmgym/Copy-v0", num_envs=6, n_symbols=5, autoreset_mode=mode, max_new_tokens=3)
    policy = make_policy(temperature=2.0, **options)
    batch = collect(envs, policy, group_size=2, n_groups=9, seed=3)
    assert first_ratio(policy, batch) < 5e-6
    assert {"end_token", "max_new_tokens"} <= set(batch.stop_reasons)
    assert all(turn[t] in listed(turn[:t]) for turn in turns_of(batch) for t in range(len(turn)))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_where_the_environment_writes_in_between(mode: AutoresetMode) -> None:
    """It writes after each even token: a turn that it cut short is no match, and the next one begins anew."""
    policy = make_policy(temperature=2.0)
    batch = collect(echo_envs(4, mode), policy, group_size=2, n_groups=8, seed=1)
    turns = turns_of(batch)
    assert len(turns) > len(batch)
    assert all(turn[t] in listed(turn[:t]) for turn in turns for t in range(len(turn)))
    assert first_ratio(policy, batch) < 5e-6


def test_top_k_chooses_among_what_the_grammar_leaves() -> None:
    policy = make_policy(top_k=2)
    policy.act(observe([[EQUALS]] * 2))
    sets = unpack_sets(torch.from_numpy(policy.last_allowed), VOCABULARY)
    assert [set(row.nonzero()[:, 0].tolist()) <= {ZERO, ONE, TWO} and int(row.sum()) for row in sets] == [2, 2]


def test_tokens_that_only_the_model_knows_are_not_allowed() -> None:
    policy = make_policy(vocab_size=20, n_actions=None)
    actions, _ = policy.act(observe([[EQUALS]] * 200))
    assert set(actions.tolist()) == {ZERO, ONE, TWO}


@pytest.mark.filterwarnings("ignore::llmgym.agents.alarms.TrainingWarning")  # it is to learn at once
@pytest.mark.parametrize("agent", [GRPO, PPO])
def test_agents_learn_within_the_grammar(agent: Any) -> None:
    options = {"problems_per_iteration": 8, "learning_rate": 1e-2, "kl_coef": 0.01, "run_dir": None}
    learner = agent(Policy(tiny_llama(6), grammar=r"(\d ){2}"), "llmgym/Copy-v0", **options,
                    env_kwargs={"n_symbols": 2, "n_digits": 2})  # fmt: skip
    before = learner.evaluate(60, split="train")
    errors = []
    learner.learn(700, callback=lambda _, m: errors.append(m["train/first_ratio_error"]), progress_bar=False)
    after = learner.evaluate(60, split="train")
    assert max(errors) < 1e-4
    for result in (before, after):
        assert result.stop_reasons == {"end_token": 1.0}
        assert all(re.fullmatch(r"(\d ){2}(<eos>)?", example["response"]) for example in result.examples)
    assert after.mean_return > before.mean_return + 0.15


# --- Which turn is under way ------------------------------------------------------------------------------------------


def test_a_response_under_way_is_read_from_where_its_turn_began() -> None:
    """Slot 0 has two digits behind it, slot 1 a turn of its own after the environment's, slot 2 a prompt alone."""
    transcripts = [[EQUALS, ONE, TWO], [FOUR, ONE, END, THREE, THREE, ONE], [ONE, TWO]]
    starts = np.array([1, 5, 2])
    policy = make_policy()
    actions, logprobs = policy.act(observe(transcripts), np.ones(3, dtype=bool), turn_starts=starts)
    for transcript, start, action, logprob in zip(transcripts, starts, actions, logprobs, strict=True):
        allowed = listed(transcript[start:])
        assert len(allowed) == (3 if start == len(transcript) else 6)
        expected = full_logprobs(policy.model, transcript)[-1][allowed].log_softmax(-1)
        assert abs(logprob - expected[allowed.index(action)]) < 2e-6
    width, lengths = 6, torch.tensor([len(t) for t in transcripts])
    prompts = torch.tensor([transcript + [PAD] * (width - len(transcript)) for transcript in transcripts])
    responses = torch.from_numpy(actions)[:, None]
    scores = policy.logprobs(
        prompts, lengths, responses, torch.ones(3, 1, dtype=torch.bool), turn_starts=torch.from_numpy(starts)
    )
    assert np.allclose(scores.logprobs[:, 0].detach().numpy(), logprobs, atol=2e-6)
    shared = policy.logprobs(
        prompts, lengths, responses[[2, 0]], torch.ones(2, 1, dtype=torch.bool),
        prompt_index=torch.tensor([2, 0]), turn_starts=torch.from_numpy(starts),
    )  # fmt: skip
    assert torch.allclose(shared.logprobs, scores.logprobs[[2, 0]])
    for wrong in ([1, 5, 3], [-1, 5, 2]):
        policy.forget()
        with pytest.raises(InvalidActionError, match="`turn_starts` within"):
            policy.act(observe(transcripts), turn_starts=np.array(wrong))
        with pytest.raises(ValueError, match="`turn_starts` of shape"):
            policy.logprobs(prompts, lengths, responses, scores.logprobs < 1, turn_starts=torch.tensor(wrong))


def test_a_turn_goes_on_in_a_copy_and_after_forgetting_where_that_is_said() -> None:
    nobody, policy = np.zeros(2, dtype=bool), make_policy(r"([0-2] ){3}")
    policy.act(observe([[EQUALS], [EQUALS]]))
    shown = observe([[EQUALS, ONE], [EQUALS, TWO]])
    policy.act(shown)
    last = observe([[EQUALS, ONE, ONE, ZERO], [EQUALS, TWO, ONE]])
    with pytest.raises(InvalidActionError, match="Expected to know where the turn of slot 0 begins"):
        copy.deepcopy(policy).act(last)
    again = pickle.loads(pickle.dumps(policy))
    last = observe([[EQUALS, ONE, ONE], [EQUALS, TWO, ONE]])
    for player in (policy, again):
        player.forget()
        player.act(last, nobody)
        actions, logprobs = player.act(observe([[EQUALS, ONE, ONE, ONE], [EQUALS, TWO, ONE, ZERO]]))
        assert actions.tolist() == [END, END]
        assert not logprobs.any()
        assert set(player.act(observe([[EQUALS], [ONE]]), ~nobody)[0].tolist()) <= {ZERO, ONE, TWO}


def test_turns_are_read_again_where_states_have_other_numbers() -> None:
    """As in another process, or with another tokenizer, whose tokens lead to the states in another order."""
    policy = make_policy("(0 1 |1 0 |2 2 ){2}")
    policy.act(observe([[EQUALS], [EQUALS]]))
    policy.act(observe([[EQUALS, 5], [EQUALS, 6]]))
    pieces = [TOKENIZER.token_text(token) for token in range(VOCABULARY)]
    policy.tokenizer = pieces_tokenizer([*pieces[:4], "3 ", "0 ", "1 ", "2 ", "4 "], r"[0-9] |[\s\S]")
    # What was written as "1 " and "2 " is "0 " and "1 " now.
    actions, _ = policy.act(observe([[EQUALS, 5, 6], [EQUALS, 6, 5]]))
    assert set(actions.tolist()) <= {5, 6, 7}
    actions, _ = policy.act(observe([[EQUALS, 5, 6, 5], [EQUALS, 6, 5, 7]]))
    assert actions.tolist() == [6, 7]


def test_what_cannot_be_known_is_an_error() -> None:
    nobody, policy = np.zeros(1, dtype=bool), make_policy()
    with pytest.raises(InvalidActionError, match="where the turn of slot 0 begins"):
        policy.act(observe([[EQUALS, ONE]]), nobody)
    policy.act(observe([[EQUALS, ONE]]))
    policy.forget()
    with pytest.raises(InvalidActionError, match="Say in `restarted`"):  # a new prompt, or the one before with a token?
        policy.act(observe([[EQUALS, ONE, TWO]]))
    policy.act(observe([[EQUALS, ONE, TWO]]), ~nobody)
    with pytest.raises(InvalidActionError, match="which did not restart, to go on, actual: 2"):
        policy.act(observe([[EQUALS, ONE]]), nobody)
    with pytest.raises(InvalidActionError, match=r"keeps to the grammar.*actual: '='"):
        policy.act(observe([[EQUALS, ONE, TWO, EQUALS]]), nobody)
    policy.grammar = None
    policy.act(observe([[EQUALS, ONE, TWO, EQUALS]]), nobody)
    policy.grammar = PATTERN  # whose turn began nobody knows where
    with pytest.raises(InvalidActionError, match="where the turn of slot 0 begins"):
        policy.act(observe([[EQUALS, ONE, TWO, EQUALS, ONE]]))


def test_a_response_that_leaves_the_grammar_is_refused() -> None:
    policy = make_policy()
    prompt, length = torch.tensor([[EQUALS]]), torch.tensor([1])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert policy.logprobs(prompt, length, torch.tensor([[ONE, EQUALS, END]]), mask).logprobs.isfinite().all()
    with pytest.raises(InvalidActionError, match="keeps to the grammar"):
        policy.logprobs(prompt, length, torch.tensor([[EQUALS, ONE, END]]), mask)
    with pytest.raises(ValueError, match="to keep to its grammar"):  # as its last token
        policy.logprobs(prompt, length, torch.tensor([[ONE, PAD]]), mask[:, :2])


def test_the_next_probabilities_are_those_that_acting_draws_from() -> None:
    """In the middle of a turn, with all that shapes a distribution at once."""
    policy = make_policy(temperature=0.7, forbidden={ONE: [TWO]}, top_k=2)
    transcript, turn_start = [FOUR, EQUALS, ZERO, ONE], 2
    expected = policy.next_probabilities(torch.tensor(transcript), turn_start)
    n = 400
    actions, logprobs = policy.act(
        observe([transcript] * n), np.ones(n, dtype=bool), turn_starts=np.full(n, turn_start)
    )
    drawn = sorted(set(actions.tolist()))
    assert drawn == np.flatnonzero(expected.numpy()).tolist() and len(drawn) == 2
    assert TWO not in drawn
    np.testing.assert_allclose(np.exp(logprobs), expected[torch.from_numpy(actions)], rtol=1e-5)
    begins = policy.next_probabilities(torch.tensor(transcript))  # a turn that is about to
    assert set(np.flatnonzero(begins.numpy()).tolist()) <= {ZERO, ONE}


def test_the_reference_keeps_to_what_the_policy_keeps_to() -> None:
    """Also to what it is told after the agent was made."""
    options = {"problems_per_iteration": 4, "group_size": 2, "kl_coef": 0.1, "run_dir": None}
    agent = GRPO(make_policy(None), "llmgym/Copy-v0", env_kwargs={"n_symbols": 5}, **options)
    agent.policy.grammar = r"([0-4] ){3}"
    assert abs(agent.iterate()["train/kl_to_ref"]) < 1e-4
    assert agent.reference is not None and agent.reference.grammar == agent.policy.grammar


def test_a_grammar_is_for_as_many_actions_as_there_are() -> None:
    policy = make_policy("[0-4] ")
    first = policy.act(observe([[EQUALS]] * 200))[0]
    policy.forget()
    policy.n_actions = VOCABULARY - 2  # now two of the words are out of bounds
    again = policy.act(observe([[EQUALS]] * 200), np.ones(200, dtype=bool))[0]
    assert set(first.tolist()) == {ZERO, ONE, TWO, THREE, FOUR} and set(again.tolist()) == {ZERO, ONE, TWO}


# --- Options ----------------------------------------------------------------------------------------------------------


def test_rules_that_together_leave_nothing_are_named() -> None:
    policy = make_policy(r"[0-2] =", forbidden={ONE: [EQUALS], TWO: [EQUALS], ZERO: [EQUALS]})
    prompt = [[FOUR]]
    actions, _ = policy.act(observe(prompt))
    message = r"Expected the grammar '\[0-2\] =', `forbidden`.*after a text such as '0 ' \(token \d before\)"
    with pytest.raises(InvalidOptionError, match=message):
        policy.act(observe([[FOUR, int(actions[0])]]))
    with pytest.raises(InvalidOptionError, match="n_actions=4 to leave"):
        make_policy(n_actions=4).act(observe([[EQUALS]]))


def test_what_is_no_grammar_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="Expected a tokenizer beside `grammar`"):
        Policy(tiny_llama(), grammar=PATTERN).act(observe([[3]]))
    for wrong in ("(a", 7):
        with pytest.raises(InvalidOptionError, match="Expected"):
            Policy(tiny_llama(), grammar=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="no token of"):
        make_policy("x").act(observe([[EQUALS]]))
    with pytest.raises(ValueError, match="Expected states where there is a grammar"):
        TokenDistribution(9, grammar=PATTERN).shaped(torch.zeros(1, 9), torch.tensor([3]))
    engine: Any = None  # is never asked
    with pytest.raises(InvalidOptionError, match="grammar in a policy that a sampler plays"):
        SampledPolicy(tiny_llama(), TOKENIZER, sampler=engine, grammar=PATTERN).act(observe([[3]]))


def test_playing_by_another_grammar_for_a_while() -> None:
    policy = make_policy(None)
    envs = gym.make_vec("llmgym/Copy-v0", num_envs=8, n_symbols=5, autoreset_mode="disabled")
    with policy.playing(grammar=r"3 4 "):
        result = evaluate(policy, envs, n_problems=8)
        assert {example["response"] for example in result.examples} <= {"3 4 ", "3 4 <eos>"}
    assert policy.grammar is None
    assert evaluate(policy, envs, n_problems=8).mean_length != 3


def test_a_saved_policy_keeps_its_grammar(tmp_path: Path) -> None:
    policy = make_policy()
    policy.save(tmp_path / "model")
    assert Policy.load(tmp_path / "model").grammar == policy.frozen_copy().grammar == PATTERN
    adapted = make_policy()
    adapted.add_lora(rank=2)
    assert adapted.merged().grammar == PATTERN
    assert pickle.loads(pickle.dumps(policy)).grammar == PATTERN
    assert Policy.load(tmp_path / "model", grammar=None).grammar is None
    file = tmp_path / "model" / "llmgym_grammar.json"
    file.write_text(json.dumps(PATTERN))
    with pytest.raises(InvalidOptionError, match='to hold {"grammar"'):
        Policy.load(tmp_path / "model")
    policy.grammar = None
    policy.save(tmp_path / "model")
    assert Policy.load(tmp_path / "model").grammar is None


def test_a_saved_agent_keeps_its_grammar(tmp_path: Path) -> None:
    options = {"problems_per_iteration": 4, "group_size": 2, "kl_coef": 0.1, "run_dir": None}
    agent = GRPO(make_policy(r"([0-4] ){3}"), "llmgym/Copy-v0", env_kwargs={"n_symbols": 5}, **options)
    again = GRPO.load(agent.save(tmp_path / "agent"))
    assert again.policy.grammar == again.reference.grammar == r"([0-4] ){3}"
    metrics = again.iterate()
    assert abs(metrics["train/kl_to_ref"]) < 1e-4
    assert metrics["train/first_ratio_error"] < 1e-5
