"""The battery finds the bugs it is for, by name; and our agents have none of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

torch = pytest.importorskip("torch")

from llmgym import testing  # noqa: E402
from llmgym.agents.agent import Agent  # noqa: E402
from llmgym.agents.grpo import GRPO  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.ppo import PPO  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from llmgym.testing import invariances as battery  # noqa: E402
from llmgym.testing.invariances import (  # noqa: E402
    INVARIANCES,
    AgentTrainer,
    Episode,
    InvarianceError,
    NotPosed,
    TrainerAdapter,
    check_trainer,
    make_batch,
    random_batch,
)
from llmgym.testing.report import Verdict  # noqa: E402
from tests.contract.plain_trainer import MODEL, PlainTrainer  # noqa: E402
from tests.unit.agent_fakes import END, EchoEnv  # noqa: E402

# -- our agents --------------------------------------------------------------------------------------------------------

#: Questions about memory alone, for the configurations that are not asked everything.
LAYOUT = ["signal", "microbatches", "padding", "repetition"]


class TurnsEnv(EchoEnv):
    """An echo that counts turns as reasoning steps, and pays what a function says at the end."""

    def __init__(self, reward: Callable[..., float] | None = None) -> None:
        self.reward = reward

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**options)
        self.prompt, self.n_turns = list(self.ids), 0
        return observation, info | {"n_reasoning_steps": 0}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self.n_turns += int(action) % 2 == 0
        if self.reward is not None and (terminated or truncated):
            reward = self.reward(self.prompt, self.ids[len(self.prompt) :])
        return observation, reward, terminated, truncated, info | {"n_reasoning_steps": self.n_turns}


def turns_envs(reward: Callable[..., float] | None = None) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: TurnsEnv(reward)] * 12, autoreset_mode=AutoresetMode.SAME_STEP)


def adapter(kind: type[Agent], **options: Any) -> AgentTrainer:
    """Three problems with four responses each."""
    sizes = {"group_size": 4} if kind is GRPO else {"responses_per_problem": 4}
    base = kind.config_class(problems_per_iteration=3, n_minibatches=1, run_dir=None, **sizes, **options)  # type: ignore[call-arg]

    def make(**overrides: Any) -> Agent:
        return kind(copy.deepcopy(MODEL), turns_envs(), base, **overrides)

    def make_rewarded(reward: Callable[..., float]) -> Agent:
        return kind(copy.deepcopy(MODEL), turns_envs(reward), base)

    return AgentTrainer(make, make_rewarded)


EVERYTHING = [
    (GRPO, {"loss_average": "token", "kl_coef": 0.1, "ent_coef": 0.01, "temperature": 0.7, "top_k": 6, "top_p": 0.9}),
    (
        GRPO,
        {
            "policy_loss": "gspo",
            "loss_average": "sequence",
            "kl_coef": 0.1,
            "kl_in": "reward",
            "supervision": "process",
        },
    ),
    (GRPO, {"policy_loss": "cispo", "loss_average": "constant", "importance_cap": 2.0, "overlong": "mask"}),
    (PPO, {"ent_coef": 0.01, "bootstrap_truncated": True, "temperature": 1.3, "top_k": 6}),
    (PPO, {"critic": "model", "kl_coef": 0.1, "loss_average": "token", "adaptive_lambda": 0.5}),
]
SOME = [
    (
        GRPO,
        {
            "loss_average": "sequence",
            "advantages": "mean",
            "overlong": "penalty",
            "max_response_tokens": 9,
            "overlong_tokens": 4,
        },
    ),
    (GRPO, {"loss_average": "constant", "advantages": "rank", "kl_coef": 0.1, "kl_estimator": "k1"}),
    (GRPO, {"policy_loss": "gspo", "loss_average": "token", "advantages": "leave_one_out", "ent_coef": 0.01}),
    (GRPO, {"policy_loss": "gspo", "loss_average": "constant", "kl_coef": 0.1, "kl_estimator": "k2"}),
    (GRPO, {"policy_loss": "cispo", "loss_average": "sequence", "kl_coef": 0.1, "kl_corrected": False}),
    (GRPO, {"policy_loss": "cispo", "loss_average": "token", "kl_coef": 0.1, "kl_in": "reward", "kl_estimator": "k1"}),
    (PPO, {"policy_loss": "penalty", "credit": "step", "kl_coef": 0.1, "kl_in": "reward"}),
    (PPO, {"loss_average": "constant", "advantages": "td", "whiten_advantages": False, "clip_range_value": None}),
]


def _named(case: Any) -> str | None:
    return case.algorithm if isinstance(case, type) else " ".join(f"{k}={v}" for k, v in case.items())


@pytest.mark.parametrize(("kind", "options"), EVERYTHING, ids=_named)
def test_our_agents_keep_every_invariance(kind: type[Agent], options: dict[str, Any]) -> None:
    report = check_trainer(adapter(kind, **options))
    assert report.passed, str(report)
    not_posed = {result.name for result in report.not_posed}
    expected = {"packing", "gae_over_turns" if kind is GRPO else "equal_returns"}
    expected |= {"equal_returns"} if "supervision" in options else set()
    expected |= {"first_ratio"} if "importance_cap" in options else set()
    assert not_posed == expected, str(report)


@pytest.mark.parametrize(("kind", "options"), SOME, ids=_named)
def test_other_configurations_do_not_see_the_layout(kind: type[Agent], options: dict[str, Any]) -> None:
    report = check_trainer(adapter(kind, **options), only=LAYOUT)
    assert report.passed, str(report)
    assert not report.not_posed


def test_bugs_in_our_own_agents_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files, with a line gone wrong."""

    def mean(values: torch.Tensor, mask: torch.Tensor, **sizes: Any) -> torch.Tensor:
        return torch.where(mask, values, 0.0).sum() / mask.sum()

    def over_everything(rewards: Any, values: Any, last_values: Any, response_mask: Any, **factors: Any) -> Any:
        zeroed, everywhere = values.masked_fill(~response_mask, 0.0), torch.ones_like(response_mask)
        return right(rewards, zeroed, last_values, everywhere, **factors)

    from llmgym.agents import grpo, ppo

    right = ppo.gae
    with monkeypatch.context() as patch:
        patch.setattr(grpo, "average_tokens", mean)
        assert _found(adapter(GRPO), "microbatches")
    with monkeypatch.context() as patch:
        patch.setattr(ppo, "gae", over_everything)
        assert "zeroed" in _found(adapter(PPO), "gae_over_turns")
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "logprobs", _at_temperature_one(Policy.logprobs))
        assert _found(adapter(GRPO, temperature=0.6), "sampler_agrees")


def _at_temperature_one(logprobs: Callable[..., Any]) -> Callable[..., Any]:
    def ignorant(policy: Policy, *arguments: Any, **options: Any) -> Any:
        with policy.playing(temperature=1.0):
            return logprobs(policy, *arguments, **options)

    return ignorant


def _found(trainer: TrainerAdapter, name: str) -> str:
    """What the battery says of a trainer that breaks one invariance; fails if it says nothing."""
    with pytest.raises(InvarianceError) as caught:
        INVARIANCES[name].check(trainer)
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}: ")
    return caught.value.trouble


# -- a trainer that is right, and ways to break it ---------------------------------------------------------------------


@pytest.mark.parametrize("critic", [False, True])
def test_a_plain_trainer_keeps_every_invariance(critic: bool) -> None:
    report = check_trainer(PlainTrainer(critic=critic))
    assert report.passed, str(report)
    assert [result.name for result in report.not_posed] == (["equal_returns"] if critic else [])


class MeanByMicrobatch(PlainTrainer):
    """Of one term, or of all."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def average(self, term: Any, mask: Any, n_tokens: int, share: float, name: str) -> Any:
        if name in self.names:
            return torch.where(mask, term, 0.0).sum() / mask.sum() * share
        return super().average(term, mask, n_tokens, share, name)


class MeanOverPadding(PlainTrainer):
    def average(self, term: Any, mask: Any, n_tokens: int, share: float, name: str) -> Any:
        return torch.where(mask, term, 0.0).mean() * share


class AttendsToPadding(PlainTrainer):
    def forward(self, model: Any, data: Any) -> Any:
        return super().forward(model, data | {"attention_mask": torch.ones_like(data["attention_mask"])})


class InterleavedGroups(PlainTrainer):
    def compared(self, returns: Any, batch: Any) -> Any:
        grouped = returns.view(batch.group_size, -1)
        return (grouped - grouped.mean(0)).flatten()


class FirstAsBaseline(PlainTrainer):
    def compared(self, returns: Any, batch: Any) -> Any:
        grouped = returns.view(-1, batch.group_size)
        return (grouped - grouped[:, :1]).flatten()


class DropsTheLast(PlainTrainer):
    def microbatches(self, batch: Any, tokens: int) -> Any:
        yield from (rows[:-1] if len(batch) - 1 in rows else rows for rows in super().microbatches(batch, tokens))


class PackedWithoutBorders(PlainTrainer):
    def sees(self, row: Any) -> Any:
        return torch.ones(len(row), len(row), dtype=torch.bool)


class SumOfTokens(PlainTrainer):
    def average(self, term: Any, mask: Any, n_tokens: int, share: float, name: str) -> Any:
        return torch.where(mask, term, 0.0).sum()


class SchedulesMicrobatches(PlainTrainer):
    def after_microbatch(self, optimizer: Any, schedule: Any) -> None:
        optimizer.step()
        schedule.step()


class MasksTooLate(PlainTrainer):
    """The loss is selected with `where`, but what it is computed of holds NaN."""

    def old_logprobs(self, part: Any, logprobs: Any) -> Any:
        return part["old_logprobs"]


class IdsNotPad(PlainTrainer):
    def mask(self, batch: Any) -> Any:
        return batch.response_ids != 0


class PadIsTheEnd(PlainTrainer):
    """The end token serves as padding, and the mask leaves out padding by its id."""

    def mask(self, batch: Any) -> Any:
        return batch.response_mask & (batch.response_ids != END)


class EndIsNotPaid(PlainTrainer):
    def rewards(self, batch: Any) -> Any:
        return super().rewards(replace(batch, rewards=np.where(batch.response_ids == END, 0.0, batch.rewards)))


class EndIsNotRecorded(PlainTrainer):
    def batch(self) -> Any:
        batch = super().batch()
        return replace(batch, response_mask=batch.response_mask & (batch.response_ids != END))


class CutOffByWidth(PlainTrainer):
    def was_cut_off(self, batch: Any) -> Any:
        return torch.tensor(batch.response_lengths == batch.response_ids.shape[1])


class CutOffByBudget(PlainTrainer):
    """Right for what is shorter than the budget of nine tokens."""

    def was_cut_off(self, batch: Any) -> Any:
        return torch.tensor(batch.truncated | (batch.response_lengths >= 9))


class RewardTimesMask(PlainTrainer):
    def rewards(self, batch: Any) -> Any:
        return super().rewards(replace(batch, rewards=np.where(batch.response_mask, batch.rewards, 0.0)))


class ZeroedValues(PlainTrainer):
    def advantages(self, rewards: Any, values: Any, last_values: Any, response_mask: Any, **factors: Any) -> Any:
        values = torch.where(response_mask, values, 0.0)
        return super().advantages(rewards, values, last_values, torch.ones_like(response_mask), **factors)


class NoMaskInTime(PlainTrainer):
    def advantages(self, rewards: Any, values: Any, last_values: Any, response_mask: Any, **factors: Any) -> Any:
        return super().advantages(rewards, values, last_values, torch.ones_like(response_mask), **factors)


class NormalisesTheBatch(PlainTrainer):
    def compared(self, returns: Any, batch: Any) -> Any:
        return (returns - returns.mean()) / (returns.std() + 1e-4)


class SwallowsErrors(PlainTrainer):
    def asked(self, reward: Any, prompt: Any, response: Any) -> float:
        try:
            return float(reward(prompt, response))
        except Exception:  # noqa: BLE001 (the bug)
            return 0.0


class NeverAsks(PlainTrainer):
    def asked(self, reward: Any, prompt: Any, response: Any) -> float:
        return 0.5


class NanIsZero(PlainTrainer):
    def rewards(self, batch: Any) -> Any:
        return super().rewards(replace(batch, rewards=np.nan_to_num(batch.rewards)))


class NanGoesOn(PlainTrainer):
    def rewards(self, batch: Any) -> Any:
        return torch.tensor(batch.rewards)


class LearnsWithoutTemperature(PlainTrainer):
    def distribution(self, logits: Any, allowed: Any) -> Any:
        return logits.masked_fill(~allowed, -1e9).log_softmax(-1)


class LearnsWithoutTopK(PlainTrainer):
    def distribution(self, logits: Any, allowed: Any) -> Any:
        return (logits / self.temperature).log_softmax(-1)


class RecordsTheUntempered(LearnsWithoutTemperature):
    """Sampler and learner agree on a distribution that is not the one drawn from."""

    temperature = 0.4

    def recorded(self, logits: Any, flat: Any, action: int) -> float:
        allowed = logits >= logits.topk(self.top_k).values[-1]
        return float(logits.masked_fill(~allowed, -1e9).log_softmax(-1)[action])


class RecordsTheUntruncated(LearnsWithoutTopK):
    def recorded(self, logits: Any, flat: Any, action: int) -> float:
        return float((logits / self.temperature).log_softmax(-1)[action])


class StaleLogprobs(PlainTrainer):
    def recorded(self, logits: Any, flat: Any, action: int) -> float:
        return float(flat[action]) - 0.05


class DeafToRatios(PlainTrainer):
    def first_ratio_error(self, batch: Any) -> float:
        return 0.0


class NothingToLearn(PlainTrainer):
    def mask(self, batch: Any) -> Any:
        return np.zeros_like(batch.response_mask)

    def average(self, term: Any, mask: Any, n_tokens: int, share: float, name: str) -> Any:
        return torch.where(mask, term, 0.0).sum()


BROKEN = [
    ("signal", NothingToLearn, "is 0"),
    ("microbatches", lambda: MeanByMicrobatch("policy", "kl", "entropy", "critic"), "policy"),
    ("microbatches", lambda: MeanByMicrobatch("kl"), "policy"),
    ("microbatches", lambda: MeanByMicrobatch("entropy"), "policy"),
    ("microbatches", lambda: MeanByMicrobatch("critic"), "critic"),
    ("padding", MeanOverPadding, "right"),
    ("padding", AttendsToPadding, "left"),
    ("padding", IdsNotPad, "padding that holds token 1"),
    ("row_order", InterleavedGroups, "within groups"),
    ("row_order", FirstAsBaseline, "within groups"),
    ("row_order", DropsTheLast, "order of the groups"),
    ("packing", PackedWithoutBorders, "packing"),
    ("repetition", SumOfTokens, "repeating"),
    ("learning_rates", SchedulesMicrobatches, "learning rates"),
    ("masked_nan", MasksTooLate, "not finite"),
    ("environment_text", IdsNotPad, "text of the environment"),
    ("end_token", PadIsTheEnd, "is 0"),
    ("end_token", IdsNotPad, "mask is not read"),
    ("end_token", EndIsNotPaid, "reward that is paid at the end token"),
    ("end_token", EndIsNotRecorded, "not in the response mask"),
    ("full_width", lambda: CutOffByWidth(critic=True), "just as wide"),
    ("full_width", lambda: CutOffByBudget(critic=True), "taken for cut off"),
    ("last_reward", RewardTimesMask, "after the last word"),
    ("gae_over_turns", ZeroedValues, "zeroed"),
    ("gae_over_turns", NoMaskInTime, "as if they were actions"),
    ("equal_returns", NormalisesTheBatch, "equal returns"),
    ("reward_errors", SwallowsErrors, "every reward raised"),
    ("reward_errors", NeverAsks, "never asked"),
    ("nan_reward", NanIsZero, "like any other"),
    ("nan_reward", NanGoesOn, "goes into the gradient"),
    ("sampler_agrees", LearnsWithoutTemperature, "nats"),
    ("sampler_agrees", LearnsWithoutTopK, "nats"),
    ("sampled_frequencies", RecordsTheUntempered, "likelier"),
    ("sampled_frequencies", RecordsTheUntruncated, "sum to"),
    ("first_ratio", StaleLogprobs, "off by 0.05"),
    ("first_ratio", DeafToRatios, "0.2 too low"),
]


@pytest.mark.parametrize(
    ("name", "make", "words"), BROKEN, ids=[f"{name}-{place}" for place, (name, *_) in enumerate(BROKEN)]
)
def test_a_broken_trainer_is_found_out(name: str, make: Callable[[], TrainerAdapter], words: str) -> None:
    assert words in _found(make(), name)


def test_every_invariance_has_a_trainer_that_breaks_it() -> None:
    assert {name for name, *_ in BROKEN} == set(INVARIANCES)
    for name in INVARIANCES:
        assert getattr(battery, f"check_{name}") is INVARIANCES[name].check


# -- the battery itself ------------------------------------------------------------------------------------------------


class GradientAlone(PlainTrainer):
    """The least that an adapter can offer."""

    logprobs = TrainerAdapter.logprobs
    sample = TrainerAdapter.sample
    first_ratio_error = TrainerAdapter.first_ratio_error
    advantages = TrainerAdapter.advantages
    packed_gradient = TrainerAdapter.packed_gradient
    learning_rates = TrainerAdapter.learning_rates
    mean_normalised = False


def test_what_an_adapter_does_not_offer_is_not_passed() -> None:
    trainer = GradientAlone()
    report = check_trainer(trainer)
    assert report.passed, str(report)
    reasons = {result.name: result.reason for result in report.not_posed}
    missing = {"packing": "packed_gradient", "learning_rates": "learning_rates", "first_ratio": "sample"}
    missing |= {"gae_over_turns": "advantages"} | dict.fromkeys(
        ("sampler_agrees", "sampled_frequencies", "reward_errors"), "sample"
    )
    assert set(reasons) == {*missing, "repetition"}
    for name, method in missing.items():
        assert f"no `{method}`" in reasons[name]
    assert "a sum" in reasons["repetition"]
    trainer.end_token = None
    with pytest.raises(NotPosed, match="no end token"):
        battery.check_end_token(trainer)


def test_questions_without_a_case_are_not_posed() -> None:
    """Nothing passes that was not asked."""

    class Given(PlainTrainer):
        def batch(self) -> Any:
            return given

    given = make_batch([Episode([3, 4], [5, 6, 7], [0.0, 0.0, 0.5], terminated=False)] * 4, group_size=4)
    for name in ("end_token", "full_width", "environment_text"):
        with pytest.raises(NotPosed, match="no response"):
            INVARIANCES[name].check(Given())
    given = make_batch([Episode([3, 4], [5, END], [0.0, 0.5])] * 4, group_size=4)
    with pytest.raises(NotPosed, match="two different responses"):
        battery.check_end_token(Given())
    given = make_batch([Episode([3, 4], [5, END], [0.0, 0.5])] * 4)
    with pytest.raises(NotPosed, match="one response to each prompt"):
        battery.check_equal_returns(Given())
    for name in ("row_order", "padding", "full_width", "masked_nan", "last_reward"):
        with pytest.raises(NotPosed, match="see `signal`"):
            INVARIANCES[name].check(NothingToLearn())
    trainer = PlainTrainer()
    trainer.vocab_size = 50_000
    with pytest.raises(NotPosed, match="vocabulary of 50000"):
        battery.check_sampled_frequencies(trainer)


def test_an_error_where_none_is_called_for_is_a_finding() -> None:
    class Breaks(PlainTrainer):
        def mask(self, batch: Any) -> Any:
            if batch.prompt_ids.shape[1] > 5:
                raise RuntimeError("too wide")
            return super().mask(batch)

    report = check_trainer(Breaks(), only=["padding", "row_order"])
    assert report["padding"].reason == "raised RuntimeError: too wide"
    assert report.findings == (report["padding"],)
    assert report["row_order"].verdict is Verdict.PASS
    with pytest.raises(KeyError):
        report["signal"]
    with pytest.raises(InvalidOptionError, match="Did you mean 'padding'"):
        check_trainer(PlainTrainer(), only=["paddin"])


def test_a_report_says_what_was_seen_and_where_it_usually_comes_from() -> None:
    trainer = MeanByMicrobatch("critic")
    trainer.name = "mine"
    report = check_trainer(trainer, only=["microbatches", "padding", "gae_over_turns"])
    text = str(report)
    assert text.startswith(
        "mine\n\nmicrobatches    finding  a split into microbatches of 1 token changes the gradient of"
    )
    assert "of the critic (of critic." in text
    assert "the usual bug: a mean taken over each microbatch" in text
    assert text.endswith("\n1 finding: microbatches")
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["findings"] == ["microbatches"]
    assert [result["verdict"] for result in plain["results"]] == ["finding", "pass", "pass"]
    error = pickle.loads(pickle.dumps(InvarianceError("padding", "it moves", "a mask")))
    assert (error.name, error.trouble, error.bug) == ("padding", "it moves", "a mask")
    assert str(error) == "padding: it moves. The usual bug: a mask."
    assert isinstance(error, AssertionError)


def test_a_random_batch_poses_every_question() -> None:
    batch = random_batch(9, END)
    within = np.arange(batch.response_ids.shape[1]) < batch.response_lengths[:, None]
    assert (within & ~batch.response_mask).any()
    full = batch.response_lengths == batch.response_ids.shape[1]
    assert (full & batch.terminated).any()
    assert (full & batch.truncated).any()
    assert (~full & batch.terminated).any()
    last = batch.response_ids[np.arange(len(batch)), batch.response_lengths - 1]
    assert ((last == END) == batch.terminated).all()
    assert batch.step_index is not None
    assert batch.step_index.max() == 2
    assert (batch.step_index[~batch.response_mask] == 0).all()
    assert len(set(batch.prompt_lengths)) == 4
    again = random_batch(9, END)
    assert np.array_equal(batch.response_ids, again.response_ids)
    assert not np.array_equal(batch.response_ids, random_batch(9, END, seed=1).response_ids)


def test_episodes_that_make_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="groups of 2, actual: 1"):
        make_batch([Episode([3], [4], [0.0])], group_size=2)
    with pytest.raises(ValueError, match="Expected 2 rewards.*actual: 1"):
        make_batch([Episode([3], [4, 5], [0.0])])


def test_importing_the_kit_loads_no_torch() -> None:
    code = "import sys, llmgym.testing as kit; print('torch' in sys.modules, 'check_trainer' in dir(kit))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
    with pytest.raises(AttributeError, match="no attribute 'chek_trainer'"):
        _ = testing.chek_trainer
    assert all(getattr(testing, name) is not None for name in testing.__all__)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "invariances.md"


def test_the_page_names_every_invariance() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [A-Z]", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(INVARIANCES)


def test_the_examples_of_the_page_print_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {"__name__": "page"}
    for code, printed in blocks:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, "docs/invariances.md", "exec"), names)
        assert output.getvalue() == printed
