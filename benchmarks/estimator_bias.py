"""Every estimator of ``llmgym.agents`` against the exact solver: its bias, with an interval, and its variance.

    python benchmarks/estimator_bias.py [--json out.json]

In two small worlds all that can happen is summed over (``llmgym.testing.exact``), so the true gradient of the expected
return, the true KL and its gradient are known; the estimators are given samples. Value functions and policies are
tables, but in the last rows, where whole agents collect, estimate advantages and differentiate their loss through a
transformer. You will see a table: the true value, the mean of the estimates, their bias with its 95 % interval, the
bias that theory says they have, and the variance of one sample. A gradient's row is its component along the true
gradient, so that value and mean can be compared; the last column is the largest deviation from theory in any direction
measured, in standard errors, and what it should stay below. Under two minutes on one core.
"""

from __future__ import annotations

import os

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

import argparse  # noqa: E402 - after the number of threads is set
import math  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import NormalDist  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from estimator_cases import (  # noqa: E402
    GROUP_SIZE,
    N_DIRECTIONS,
    Case,
    Floats,
    advantage_gap,
    gae_cases,
    group_cases,
    groups_world,
    posed,
)
from estimator_kl import kl_gradient_cases, kl_value_cases  # noqa: E402
from estimator_losses import loss_cases  # noqa: E402
from estimator_metrics import metric_cases  # noqa: E402
from estimator_responses import response_cases  # noqa: E402
from side_by_side import table, versions, write_json  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from llmgym.agents import GRPO, PPO  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.testing.exact_policies import (  # noqa: E402
    expected_return,
    log_probabilities,
    model_gradient,
    sequence_kl,
    table_of,
)

#: How often a true estimator would be called false, in all directions together.
FALSE_ALARM = 1e-4


@dataclass(frozen=True)
class Measured:
    """What was measured of an estimator; of a gradient, along the true one.

    Attributes:
        true: What is estimated.
        mean: Of the estimates.
        bias: ``mean - true``.
        half_width: Of the 95 % interval of the bias.
        expected_bias: What theory says; ``None`` where it says nothing.
        variance: Of one estimate.
        deviation: The largest distance of a mean from its expectation, over all directions, in standard errors;
            ``None`` where there is no expectation.
        bound: What it exceeds with a probability of :data:`FALSE_ALARM` if the expectation is right.
        n: Estimates.
    """

    true: float
    mean: float
    bias: float
    half_width: float
    expected_bias: float | None
    variance: float
    deviation: float | None
    bound: float
    n: int

    @property
    def agrees(self) -> bool:
        """Whether the estimates are what they are expected to be, within the error of sampling."""
        return self.deviation is not None and self.deviation <= self.bound


def measure(
    case: Case, n: int, seed: int | tuple[int, ...] = 0, function: Callable[..., Any] | None = None
) -> Measured:
    """Draw samples of an estimator and compare their mean with the truth, and with what it should be.

    Args:
        case: The estimator.
        n: Samples of an episode's; other units get their share.
        seed: Of the samples.
        function: In place of the shipped one: to see whether an error would be found.
    """
    n = max(2, round(n * case.share))
    samples = case.draw(case.shipped if function is None else function, np.random.default_rng(seed), n)
    mean, error = samples.mean(axis=0), samples.std(axis=0, ddof=1) / math.sqrt(n)
    deviation = None
    if case.expected is not None:
        distance = np.abs(mean - case.expected)
        distance[distance < 1e-6 * np.abs(case.expected).max()] = 0.0  # rounding, where nothing varies
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = float(np.where(distance > 0, distance / error, 0.0).max())
    return Measured(
        true=float(case.truth[0]),
        mean=float(mean[0]),
        bias=float(mean[0] - case.truth[0]),
        half_width=float(NormalDist().inv_cdf(0.975) * error[0]),
        expected_bias=None if case.expected is None else float(case.expected[0] - case.truth[0]),
        variance=float(samples[:, 0].var(ddof=1)),
        deviation=deviation,
        bound=NormalDist().inv_cdf(1.0 - FALSE_ALARM / (2 * samples.shape[1])),
        n=n,
    )


# --- Whole agents -----------------------------------------------------------------------------------------------------

_PROBLEMS, _KL_COEF = 16, 1.0
#: One step on each rollout, too small to move a float32 weight, of a gradient that nothing scales.
_ONE_STEP = {
    "problems_per_iteration": _PROBLEMS,
    "loss_average": "constant",
    "max_response_tokens": 1,
    "n_epochs": 1,
    "n_minibatches": 1,
    "learning_rate": 1e-12,
    "max_grad_norm": 1e12,
}


def agent_cases() -> list[Case]:
    """The gradients that whole agents take a step along, through a transformer."""
    return [
        agent_case("GRPO, leave_one_out", "leave_one_out", GRPO, advantages="leave_one_out", group_size=GROUP_SIZE),
        agent_case("GRPO, z_score", "z_score", GRPO, advantages="z_score", group_size=GROUP_SIZE),
        agent_case("PPO, lambda 1", "", PPO, whiten_advantages=False, critic="model", responses_per_problem=GROUP_SIZE),
        kl_agent_case("GRPO, k1 in the reward", kl_in="reward", kl_estimator="k1"),
        kl_agent_case("GRPO, k3 in the loss", kl_in="loss", kl_estimator="k3"),
    ]


def agent_case(name: str, normalization: str, algorithm: Any, **options: Any) -> Case:
    """An agent's gradient after :meth:`collect` and :meth:`update`, against the model's true one."""
    agent = small_agent(algorithm, **options)
    parameters = trained(agent)
    truth = model_gradient(groups_world().tree, agent.policy, parameters)
    expected = truth if not normalization else group_gradient(agent.policy, parameters, normalization)
    return gradient_case(name, "policy gradient of a model", agent, truth, expected)


def kl_agent_case(name: str, *, kl_in: str, kl_estimator: str) -> Case:
    """The same with a penalty on the KL from a reference that the policy has left.

    In the reward its gradient is that of the KL of responses, in the loss that of the KL in the visited states.
    """
    tree = groups_world().tree
    agent = small_agent(
        GRPO,
        advantages="leave_one_out",
        group_size=GROUP_SIZE,
        kl_coef=_KL_COEF,
        kl_in=kl_in,
        kl_estimator=kl_estimator,
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in agent.reference.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        reference = log_probabilities(tree, agent.reference)
    parameters, logprobs = trained(agent), log_probabilities(tree, agent.policy)
    distance = sequence_kl(tree, logprobs, reference)
    if kl_in == "loss":
        visits = torch.from_numpy(tree.evaluate(table_of(tree, agent.policy)).visits)
        distance = (visits * (logprobs.double().exp() * (logprobs - reference)).sum(1)).sum()
    objective = expected_return(tree, logprobs) - _KL_COEF * distance
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters, materialize_grads=True)])
    return gradient_case(name, "gradient of the return less the KL", agent, truth, truth)


def small_agent(algorithm: Any, **options: Any) -> Any:
    """An agent in the world of groups, that takes its steps without moving."""
    return algorithm(
        Policy(tiny_transformer(len(groups_world().tree.actions))),
        "llmgym/MixedDifficulty-v0",
        env_kwargs={"levels": 2, "n_words": 2},
        **_ONE_STEP,
        **options,
    )


def trained(agent: Any) -> list[torch.nn.Parameter]:
    """The weights that the agent learns."""
    return [parameter for parameter in agent.policy.model.parameters() if parameter.requires_grad]


def gradient_case(name: str, of: str, agent: Any, truth: torch.Tensor, expected: torch.Tensor) -> Case:
    """The gradients of an agent's iterations, along the true one and along random directions."""
    parameters = trained(agent)
    directions = torch.randn(1 + N_DIRECTIONS, len(truth), generator=torch.Generator().manual_seed(9))
    directions[0] = truth
    directions /= directions.norm(dim=1, keepdim=True)

    def draw(_: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        agent.policy.generator.manual_seed(int(rng.integers(2**31)))
        agent._rng = np.random.default_rng(rng.integers(2**31))
        samples = []
        for _ in range(n):
            batch, _ = agent.collect()
            agent.update(batch)
            gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])
            samples.append(-(directions @ gradient).double().numpy())  # the loss is negated
        return np.stack(samples)

    along = (directions @ torch.stack([truth, expected], dim=1)).double().numpy()
    return Case(name, of, type(agent), draw, along[:, 0], along[:, 1], "iteration", 0.005)


def tiny_transformer(vocab_size: int) -> LlamaForCausalLM:
    """Random weights, and preferences strong enough that something can be learned from them."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            initializer_range=0.2,
        )
    )


def group_gradient(policy: Policy, parameters: list[torch.nn.Parameter], normalization: str) -> torch.Tensor:
    """What the group's advantages make of the gradient: each problem's, scaled by what a right response is worth."""
    tree = groups_world().tree
    logprobs = log_probabilities(tree, policy)
    total = torch.zeros((), dtype=torch.float64)
    for problem in np.flatnonzero(tree.start):
        success = expected_return(posed(tree, int(problem)), logprobs)
        total = total + tree.start[problem] * advantage_gap(success.item(), normalization) * success
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters, materialize_grads=True)])


def all_cases() -> list[Case]:
    """Every estimator that is measured."""
    advantages = [*gae_cases(), *response_cases(), *group_cases()]
    return [*advantages, *kl_value_cases(), *kl_gradient_cases(), *loss_cases(), *metric_cases(), *agent_cases()]


# --- The program ------------------------------------------------------------------------------------------------------


def row_of(case: Case, measured: Measured) -> tuple[str, ...]:
    """A line of the table."""
    expected = "-" if measured.expected_bias is None else f"{round(measured.expected_bias, 4) + 0.0:+.4f}"
    low, high = measured.bias - measured.half_width, measured.bias + measured.half_width
    return (
        case.name,
        case.of,
        f"{measured.true:.4f}",
        f"{measured.mean:.4f}",
        f"{measured.bias:+.4f} [{low:+.4f}, {high:+.4f}]",
        expected,
        f"{measured.variance:.3g} / {case.unit}",
        "-" if measured.deviation is None else f"{measured.deviation:.1f} of {measured.bound:.1f}",
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure all cases and show them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=40_000, help="samples where a sample is one episode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)
    started = time.perf_counter()
    rows, lines = [], []
    for place, case in enumerate(all_cases()):
        measured = measure(case, options.episodes, (options.seed, place))
        rows.append({"estimator": case.name, "of": case.of, "unit": case.unit} | asdict(measured))
        rows[-1]["agrees"] = measured.agrees if case.expected is not None else None
        lines.append(row_of(case, measured))
    headings = ("estimator", "of", "true", "mean", "bias [95 %]", "in theory", "variance", "worst")
    print(table(headings, lines))
    seconds = time.perf_counter() - started
    print(f"\n{len(rows)} estimators, {seconds:.0f} s")
    write_json(options.json, options, rows, seconds=seconds, versions=versions("numpy", "torch"))


if __name__ == "__main__":
    main()
