"""The exact solver for models: a policy of :mod:`llmgym.agents` in place of a table of probabilities.

The model is asked for its distribution in every state of a :class:`~llmgym.testing.exact.Tree`, with gradient, through
``Policy.logprobs``, as learning does. From there on the sums are over all outcomes: the expected return and the KL are
functions of the weights that autograd differentiates, so their gradients are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmgym.agents.policies import Policy
from llmgym.errors import InvalidOptionError
from llmgym.testing.exact_trees import Floats, Tree


def log_probabilities(tree: Tree, policy: Policy) -> torch.Tensor:
    """``(S, A)``: the log-probability of each action in each state, with gradient.

    Args:
        tree: Of the environment that the policy plays.
        policy: Any; its temperature and its forbidden tokens count, as in acting.

    Returns:
        ``(S, A)`` in the model's type, ``-inf`` where a token is forbidden. The probabilities of a row sum to 1 if the
        tree has all actions of the policy.

    Raises:
        InvalidOptionError: If top-k or top-p is on: the set of tokens it leaves is not part of ``Policy.logprobs``. Or
            if there is a grammar: a tree has states outside of it, where such a policy is not defined.
    """
    if policy.grammar is not None:
        raise InvalidOptionError(
            f"Expected a policy without a grammar, actual: grammar={policy.grammar!r}. Switch it off: the tree has "
            "states that it never comes to."
        )
    if policy.truncates:
        raise InvalidOptionError(
            f"Expected a policy that can choose every token, actual: top_k={policy.top_k}, top_p={policy.top_p}. "
            "Switch both off: the set that they leave is drawn in acting alone."
        )
    n_states, n_actions = tree.rewards.shape
    lengths = torch.tensor([len(state.ids) for state in tree.states])
    prompts = torch.zeros(n_states, int(lengths.max()), dtype=torch.int64)
    for row, state in enumerate(tree.states):
        prompts[row, : len(state.ids)] = torch.tensor(state.ids)
    chosen = torch.from_numpy(tree.actions).repeat(n_states)[:, None]  # (S * A, 1): a response of one token for each
    scores = policy.logprobs(
        prompts.to(policy.device),
        lengths.to(policy.device),
        chosen.to(policy.device),
        torch.ones_like(chosen, dtype=torch.bool).to(policy.device),
        prompt_index=torch.arange(n_states).repeat_interleave(n_actions).to(policy.device),
    )
    return scores.logprobs.view(n_states, n_actions)


def table_of(tree: Tree, policy: Policy) -> Floats:
    """``(S, A)`` float64: the chances of the actions, for the methods of :class:`~llmgym.testing.exact.Tree`.

    Raises:
        InvalidOptionError: As in :func:`log_probabilities`.
        ValueError: If the policy gives a part of its probability to tokens that the tree leaves out.
    """
    with torch.no_grad():
        chances: Floats = log_probabilities(tree, policy).double().exp().cpu().numpy()
    total = chances.sum(axis=1)
    if abs(total - 1.0).max() > 1e-3:
        raise ValueError(
            f"Expected the tree to have every action of the policy, actual: those it has get {total.min():g} of the "
            "probability in one state. Build the tree without `actions`, or forbid the other tokens."
        )
    chances /= total[:, None]  # float32 logits leave the sum a little off
    return chances


def expected_return(
    tree: Tree, logprobs: torch.Tensor, gamma: float = 1.0, *, rewards: torch.Tensor | None = None
) -> torch.Tensor:
    """The expected return as a function of the log-probabilities: what the policy gradient is the gradient of.

    ``V(s) = sum_a exp(logprobs(s, a)) (r(s, a) + gamma sum_s' p(s' | s, a) V(s'))``.

    Args:
        tree: Of the environment.
        logprobs: ``(S, A)`` float. From :func:`log_probabilities`, or the log-softmax of a table.
        gamma: Discount for each action, in ``[0, 1]``.
        rewards: ``(S, A)`` float. Rewards in place of the environment's; they may carry a gradient of their own.

    Returns:
        A scalar, float64.

    Source: Sutton and Barto, "Reinforcement Learning", 2nd edition, eq. 3.14.
    """
    chances = logprobs.double().exp().cpu()
    paid = torch.from_numpy(tree.rewards) if rewards is None else rewards.double().cpu()
    values = torch.zeros(len(tree.states), dtype=torch.float64)
    for at, edges in tree.levels()[::-1]:
        following = torch.from_numpy(tree.edge_next[edges])
        worth = gamma * torch.from_numpy(tree.edge_probability[edges]) * values[following]
        places = torch.from_numpy(tree.edge_state[edges] * len(tree.actions) + tree.edge_action[edges])
        to_come = torch.zeros(paid.numel(), dtype=torch.float64).index_add(0, places, worth).view_as(paid)
        states = torch.from_numpy(at)
        now = (chances[states] * (paid + to_come)[states]).sum(1)
        values = values.index_copy(0, states, now)
    return torch.from_numpy(tree.start) @ values


def sequence_kl(tree: Tree, logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """``KL(policy || reference)`` of whole responses, in nats, as a function of the log-probabilities.

    Args:
        tree: Of the environment.
        logprobs: ``(S, A)`` float. Of the policy.
        ref_logprobs: ``(S, A)`` float. Of the reference.

    Returns:
        A scalar, float64. Forbidden tokens count as 0.
    """
    ratio = (logprobs - ref_logprobs).masked_fill(logprobs == float("-inf"), 0.0)
    return expected_return(tree, logprobs, rewards=ratio)


def model_gradient(tree: Tree, policy: Policy, parameters: Sequence[torch.Tensor], gamma: float = 1.0) -> torch.Tensor:
    """The true gradient of the expected return by the weights of a model, in one vector.

    Args:
        tree: Of the environment that the policy plays.
        policy: Whose model it is.
        parameters: Of the model, in the order that the vector is to have.
        gamma: Discount for each action.

    Returns:
        ``(n,)`` float, the parameters flattened one after the other; 0 where one has no part in it.
    """
    total = expected_return(tree, log_probabilities(tree, policy), gamma)
    gradients = torch.autograd.grad(total, list(parameters), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])
