"""How much better an action was than could be expected. Pure tensor functions; no model in sight.

Group methods compare responses to one problem (:func:`group_advantages`, :func:`process_advantages`); actor-critic
methods compare what came with what a critic foresaw (:func:`gae` over tokens, :func:`step_gae` over reasoning steps).

``response_mask`` is True where the policy chose the token. Where it is False stands padding, or text that the
environment wrote between two turns. That is no action: nothing is discounted over it, its values are never read, and a
NaN there reaches neither a result nor a gradient.
"""

from __future__ import annotations

import torch

from llmgym.agents.masking import _same_shape, masked_mean, zero_outside


def group_advantages(returns: torch.Tensor, *, normalization: str = "z_score", epsilon: float = 1e-4) -> torch.Tensor:
    """Advantage of each response over the others of its group.

    * ``"z_score"``: ``A_i = (R_i - mean(R)) / (std(R) + epsilon)``, with the standard deviation over the group itself
      (dividing by ``G``).
    * ``"mean"``: ``A_i = R_i - mean(R)``, so that easy and hard problems are not blown up.
    * ``"rank"``: ``A_i = (k_i - mean(k)) / std(k)`` with ``k_i`` the rank of ``R_i``, equal returns sharing their mean
      rank: only the order counts, so no outlier does.
    * ``"leave_one_out"``: ``A_i = R_i - 1/(G-1) sum_{j != i} R_j``, whose baseline does not depend on ``R_i``; it is
      ``G/(G-1)`` times ``"mean"``.

    Args:
        returns: ``(P, G)`` float. Episode returns, a row per problem.
        normalization: One of the four above.
        epsilon: Added to the standard deviation of ``"z_score"``.

    Returns:
        ``(P, G)`` float; each row sums to 0, and is 0 where all its returns are equal.

    Raises:
        ValueError: If ``returns`` has not two axes or is not finite, a group has one response only, or the option is
            unknown.

    Example:
        >>> group_advantages(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), normalization="mean")
        tensor([[-0.5000,  0.5000,  0.5000, -0.5000]])
        >>> group_advantages(torch.tensor([[0.0, 3.0, 6.0]]), normalization="leave_one_out")
        tensor([[-4.5000,  0.0000,  4.5000]])

    Source: Shao et al., arXiv:2402.03300v3, section 4.1.2 (z-score); Liu et al., arXiv:2503.20783v1 (mean); Salimans
        et al., arXiv:1703.03864v2, section 2.1 (returns replaced by ranks); Ahmadian et al., arXiv:2402.14740v2,
        section 2.2 (leave one out).
    """
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise ValueError(
            f"Expected returns of shape (P, G) with G >= 2 (advantages compare responses to one problem), "
            f"actual: {tuple(returns.shape)}. Raise the group size."
        )
    if not returns.isfinite().all():
        problem, response = (~returns.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"Expected finite returns, actual: {returns[problem, response].item()} for response {response} to problem "
            f"{problem}. Mend the reward: one such number spoils its whole group."
        )
    centred = returns - returns.mean(dim=1, keepdim=True)
    if normalization == "mean":
        advantages = centred
    elif normalization == "z_score":
        advantages = centred / (returns.std(dim=1, correction=0, keepdim=True) + epsilon)
    elif normalization == "rank":
        ranks = _ranks(returns)
        advantages = (ranks - ranks.mean(dim=1, keepdim=True)) / ranks.std(dim=1, correction=0, keepdim=True)
    elif normalization == "leave_one_out":
        size = returns.shape[1]
        advantages = centred * (size / (size - 1))
    else:
        raise ValueError(
            f'Expected normalization to be "z_score", "mean", "rank" or "leave_one_out", actual: {normalization!r}.'
        )
    # Exactly 0, not the rounding of a mean divided by something small (by 0, for ranks).
    return advantages.masked_fill((returns == returns[:, :1]).all(dim=1, keepdim=True), 0.0)


def groups_with_signal(returns: torch.Tensor, *, tolerance: float = 1e-6) -> torch.Tensor:
    """Which groups can teach: those whose returns are not all the same.

    Args:
        returns: ``(P, G)`` float.
        tolerance: Differences up to this count as none.

    Returns:
        ``(P,)`` bool.
    """
    return (returns.max(dim=1).values - returns.min(dim=1).values) > tolerance


def rewards_of_actions(rewards: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """The rewards, each at the agent's token that earned it: the last one at or before its place.

    All estimators of this file that take rewards read them this way. A row's sum stays what it was.

    Args:
        rewards: ``(B, T)`` float. A NaN on a masked place stands for no reward; elsewhere it stays.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.

    Returns:
        ``(B, T)`` float; 0 outside the mask.

    Raises:
        ValueError: If the shapes disagree, or a reward other than 0 stands before the agent's first token (no action of
            its has earned it).

    Example:
        >>> mask = torch.tensor([[True, False, False, True, False]])
        >>> rewards_of_actions(torch.tensor([[0.5, 0.0, 1.0, 0.0, 2.0]]), mask)
        tensor([[1.5000, 0.0000, 0.0000, 2.0000, 0.0000]])
    """
    _same_shape(rewards=rewards, response_mask=response_mask)
    rewards = rewards.masked_fill(~response_mask & rewards.isnan(), 0.0)
    early = (rewards != 0.0) & (_last_true(response_mask) < 0)
    if early.any():
        row, place = early.nonzero()[0].tolist()
        raise ValueError(
            f"Expected no reward before the agent's first token (no action has earned it), "
            f"actual: {rewards[row, place].item()} in row {row} at place {place}. Pay at the token that earns it."
        )
    return _sum_from(rewards, response_mask)


def process_advantages(
    rewards: torch.Tensor,
    response_mask: torch.Tensor,
    step_index: torch.Tensor,
    *,
    group_size: int,
    epsilon: float = 1e-4,
) -> torch.Tensor:
    """Advantages from a reward for each reasoning step, compared over all steps of a group's responses.

    ``A_{i,t} = sum_{k >= step(t)} z_{i,k}`` with ``z_{i,k} = (r_{i,k} - mean(r)) / (std(r) + epsilon)``: ``r_{i,k}`` is
    the sum of the rewards in step ``k`` of response ``i``; mean and standard deviation (dividing by the count) are over
    all steps of all responses in the group, so that a long response weighs more in them.

    Args:
        rewards: ``(B, T)`` float. As in :func:`gae`.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        step_index: ``(B, T)`` int. Which reasoning step the token belongs to: >= 0, never falling along a response;
            read inside the mask only. A step none of whose tokens the policy chose is no step.
        group_size: ``G``. Rows ``0 .. G-1`` answer the first problem, and so on.
        epsilon: Added to the standard deviation.

    Returns:
        ``(B, T)`` float: the same for all tokens of a step; 0 outside the mask, and where all steps of the group have
        the same reward.

    Raises:
        ValueError: If the shapes disagree, rows do not make whole groups, a step index falls, or a reward stands before
            the first chosen token.

    Source: Shao et al., arXiv:2402.03300v3, section 4.1.3.
    """
    _same_shape(rewards=rewards, response_mask=response_mask, step_index=step_index)
    if group_size < 1 or len(rewards) % group_size:
        raise ValueError(
            f"Expected rows that make whole groups of group_size = {group_size}, actual: {len(rewards)} rows. "
            f"Pass all responses to each problem."
        )
    starts = _step_starts(step_index, response_mask)
    step_rewards = _sum_from(rewards_of_actions(rewards, response_mask), starts)
    n_groups, width = len(rewards) // group_size, rewards.shape[1] * group_size
    of_group, is_step = step_rewards.reshape(n_groups, width), starts.reshape(n_groups, width)
    mean = masked_mean(of_group, is_step, dim=1)[:, None]
    std = masked_mean((of_group - mean) ** 2, is_step, dim=1)[:, None].sqrt()
    highest = of_group.masked_fill(~is_step, -torch.inf).amax(dim=1, keepdim=True)
    lowest = of_group.masked_fill(~is_step, torch.inf).amin(dim=1, keepdim=True)
    normalised = ((of_group - mean) / (std + epsilon)).masked_fill(~is_step | (highest == lowest), 0.0)
    to_come = normalised.reshape(rewards.shape).flip(1).cumsum(1).flip(1)  # (B, T): the sum from here on
    return _spread(to_come, starts, response_mask)


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_values: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    gamma: float,
    gae_lambda: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates over the agent's tokens, and the value targets that go with them.

    ``delta_t = r_t + gamma V(s_{t'}) - V(s_t)``;  ``A_t = delta_t + gamma gae_lambda A_{t'}``, with ``t'`` the agent's
    next token after ``t``. A run of tokens that the environment wrote in between is skipped: seen from the agent it is
    part of one transition. After the agent's last token ``V(s_{t'})`` is ``last_values`` and ``A_{t'}`` is 0.

    Args:
        rewards: ``(B, T)`` float. A reward on a masked place counts for the agent's last token before it, the action
            that led there; a NaN on a masked place stands for no reward.
        values: ``(B, T)`` float. ``V(s_t)``: of the state in which token ``t`` was chosen; never read outside the mask.
        last_values: ``(B,)`` float. Value of the state after the response; 0 where the episode terminated.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        gamma: Discount for each of the agent's tokens, in ``[0, 1]``.
        gae_lambda: A number in ``[0, 1]``, or ``(B,)`` float, one for each response. 0 is one-step temporal difference
            (less variance), 1 is Monte Carlo (less bias).

    Returns:
        advantages: ``(B, T)`` float, 0 outside the mask.
        returns: ``(B, T)`` float, ``advantages + values``; 0 outside the mask.

    Raises:
        ValueError: If the shapes disagree, or a reward other than 0 stands before the agent's first token (no action of
            its has earned it).

    Example:
        >>> mask = torch.tensor([[True, True, False, False, True, True]])
        >>> values, rewards = torch.tensor([[0.1, 0.2, 0.9, 0.8, 0.4, 0.6]]), torch.eye(6)[5:]
        >>> gae(rewards, values, torch.zeros(1), mask, gamma=1.0, gae_lambda=0.95)[0]
        tensor([[0.8134, 0.7510, 0.0000, 0.0000, 0.5800, 0.4000]])

    Source: Schulman et al., arXiv:1506.02438v6, eq. 16.
    """
    _same_shape(rewards=rewards, values=values, response_mask=response_mask)
    paid = rewards_of_actions(rewards, response_mask)
    values = values.masked_fill(~response_mask, 0.0)
    advantages = _gae(paid, values, last_values, response_mask, gamma, gae_lambda)
    return advantages, advantages + values


def td_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_values: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    gamma: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One-step temporal difference: :func:`gae` with ``gae_lambda = 0``.

    ``A_t = r_t + gamma V(s_{t'}) - V(s_t)``, and the value target ``r_t + gamma V(s_{t'})``.

    Args:
        rewards: ``(B, T)`` float. As in :func:`gae`.
        values: ``(B, T)`` float. As there.
        last_values: ``(B,)`` float. As there.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        gamma: Discount for each of the agent's tokens, in ``[0, 1]``.

    Returns:
        advantages: ``(B, T)`` float, 0 outside the mask.
        returns: ``(B, T)`` float, ``advantages + values``; 0 outside the mask.

    Raises:
        ValueError: As in :func:`gae`.

    Source: Sutton and Barto, "Reinforcement Learning", 2nd edition, eq. 6.5.
    """
    return gae(rewards, values, last_values, response_mask, gamma=gamma, gae_lambda=0.0)


def step_gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_values: torch.Tensor,
    response_mask: torch.Tensor,
    step_index: torch.Tensor,
    *,
    gamma: float,
    gae_lambda: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates over reasoning steps: all of a step's tokens are one action.

    ``delta_k = r_k + gamma V(s_{k+1}) - V(s_k)``;  ``A_k = delta_k + gamma gae_lambda A_{k+1}``, with ``r_k`` the sum
    of the rewards in step ``k`` and ``s_k`` the state in which its first token was chosen. Every token of the step
    carries ``A_k``, and ``A_k + V(s_k)`` as its value target: the return from the beginning of the step on, which is
    what the critic is read for.

    Args:
        rewards: ``(B, T)`` float. As in :func:`gae`.
        values: ``(B, T)`` float. Read at the first chosen token of each step only.
        last_values: ``(B,)`` float. As in :func:`gae`.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        step_index: ``(B, T)`` int. As in :func:`process_advantages`.
        gamma: Discount for each reasoning step, in ``[0, 1]``.
        gae_lambda: As in :func:`gae`.

    Returns:
        advantages: ``(B, T)`` float, the same for all tokens of a step; 0 outside the mask.
        returns: ``(B, T)`` float, the same for all tokens of a step; 0 outside the mask.

    Raises:
        ValueError: As in :func:`gae`, or if a step index falls along a response.

    Source: Schulman et al., arXiv:1506.02438v6, eq. 16, with a reasoning step for a timestep.
    """
    _same_shape(rewards=rewards, values=values, response_mask=response_mask, step_index=step_index)
    starts = _step_starts(step_index, response_mask)
    paid = _sum_from(rewards_of_actions(rewards, response_mask), starts)
    values = values.masked_fill(~starts, 0.0)
    advantages = _gae(paid, values, last_values, starts, gamma, gae_lambda)
    return _spread(advantages, starts, response_mask), _spread(advantages + values, starts, response_mask)


def length_adaptive_lambda(lengths: torch.Tensor, alpha: float) -> torch.Tensor:
    """A ``gae_lambda`` for each response, nearer to 1 the longer it is, so that a late reward reaches its beginning.

    ``lambda = max(0, 1 - 1 / (alpha l))``: the coefficients of the temporal differences then sum to about ``alpha l``,
    in proportion to the length. Where ``alpha l < 1`` the formula turns negative, which is no weight for an average;
    0, one-step temporal difference, is the nearest that is.

    Args:
        lengths: ``(B,)`` int or float. The agent's tokens in each response.
        alpha: > 0; more: nearer to Monte Carlo. VAPO uses 0.05.

    Returns:
        ``(B,)`` float, in ``[0, 1)``; float32 where ``lengths`` are integers.

    Raises:
        ValueError: If ``alpha`` is not above 0.

    Example:
        >>> length_adaptive_lambda(torch.tensor([10, 40, 400]), alpha=0.05)
        tensor([0.0000, 0.5000, 0.9500])

    Source: Yue et al. (VAPO), arXiv:2504.05118v1, section 4.2.
    """
    if not alpha > 0.0:
        raise ValueError(f"Expected alpha > 0 (lambda is 1 - 1 / (alpha * length)), actual: {alpha}. VAPO uses 0.05.")
    return (1.0 - 1.0 / (alpha * lengths)).clamp(min=0.0)


def whiten(
    advantages: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8
) -> torch.Tensor:
    """Advantages with mean 0 and standard deviation 1 over the chosen tokens.

    ``(A - mean(A)) / (std(A) + epsilon)``, and ``+ mean(A)`` if the mean is to stay; mean and standard deviation
    (dividing by the count) are over the masked entries. Pass a whole rollout, or slices of it are scaled apart.

    Args:
        advantages: ``(B, T)`` float.
        mask: ``(B, T)`` bool. True where the policy chose the token.
        shift_mean: Whether the mean becomes 0; otherwise it is what it was.
        epsilon: Added to the standard deviation.

    Returns:
        ``(B, T)`` float; 0 outside the mask.

    Raises:
        ValueError: If the shapes disagree.

    Source: Ziegler et al., arXiv:1909.08593v2, section 2.1; the published code that goes with it.
    """
    (advantages,) = zero_outside(mask, advantages)
    mean = masked_mean(advantages, mask)
    centred = advantages - mean
    white = centred / (masked_mean(centred**2, mask).sqrt() + epsilon)
    return (white if shift_mean else white + mean).masked_fill(~mask, 0.0)


def soft_overlong_penalty(lengths: torch.Tensor, *, max_tokens: int, cache_tokens: int) -> torch.Tensor:
    """A reward that falls from 0 to -1 over the last tokens of the budget, so that length has a slope, not a cliff.

    ``0`` up to ``L_max - L_cache`` tokens; ``((L_max - L_cache) - l) / L_cache`` up to ``L_max``; ``-1`` beyond.

    Args:
        lengths: ``(B,)`` int or float. Tokens of each response.
        max_tokens: ``L_max``, where the penalty is -1.
        cache_tokens: ``L_cache``, over how many tokens it falls; in ``[1, max_tokens]``.

    Returns:
        ``(B,)`` float, in ``[-1, 0]``; float32 where ``lengths`` are integers.

    Raises:
        ValueError: If ``cache_tokens`` is out of its range.

    Example:
        >>> soft_overlong_penalty(torch.tensor([6, 8, 9, 10, 11]), max_tokens=10, cache_tokens=4)
        tensor([ 0.0000, -0.5000, -0.7500, -1.0000, -1.0000])

    Source: Yu et al. (DAPO), arXiv:2503.14476v1, eq. 13.
    """
    if not 1 <= cache_tokens <= max_tokens:
        raise ValueError(
            f"Expected 1 <= cache_tokens <= max_tokens = {max_tokens} (the penalty falls over the last cache_tokens), "
            f"actual: {cache_tokens}."
        )
    return ((max_tokens - cache_tokens - lengths) / cache_tokens).clamp(-1.0, 0.0)


def _ranks(returns: torch.Tensor) -> torch.Tensor:
    """``(P, G)`` float: the place of each return in its row's order, from 1/2; equal returns share their mean place."""
    mine, others = returns[:, :, None], returns[:, None, :]
    return ((others < mine).sum(dim=2) + 0.5 * (others == mine).sum(dim=2)).to(returns.dtype)


def _gae(
    paid: torch.Tensor,
    values: torch.Tensor,
    last_values: torch.Tensor,
    actions: torch.Tensor,
    gamma: float,
    gae_lambda: float | torch.Tensor,
) -> torch.Tensor:
    """The recursion of :func:`gae` over the True places of ``actions``; ``paid`` and ``values`` are 0 elsewhere."""
    if last_values.shape != (len(paid),):
        raise ValueError(
            f"Expected last_values of shape ({len(paid)},), one for each response, actual: {tuple(last_values.shape)}."
        )
    if isinstance(gae_lambda, torch.Tensor) and gae_lambda.shape != (len(paid),):
        raise ValueError(
            f"Expected gae_lambda to be a number or of shape ({len(paid)},), one for each response, "
            f"actual: {tuple(gae_lambda.shape)}."
        )
    advantages = torch.zeros_like(paid)
    next_values, next_advantages = last_values, torch.zeros_like(last_values)
    for t in reversed(range(paid.shape[1])):
        delta = paid[:, t] + gamma * next_values - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantages
        acts = actions[:, t]
        advantages[:, t] = torch.where(acts, advantage, 0.0)
        # What the environment wrote changes neither: the agent's token before it looks past it.
        next_advantages = torch.where(acts, advantage, next_advantages)
        next_values = torch.where(acts, values[:, t], next_values)
    return advantages


def _sum_from(values: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """At each True of ``starts``: the sum of ``values`` from there to before the next True; 0 elsewhere."""
    return torch.zeros_like(values).scatter_add(1, _last_true(starts).clamp(min=0), values)


def _spread(values: torch.Tensor, starts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """At each place of ``mask``: the value at the last True of ``starts`` at or before it; 0 elsewhere."""
    return values.gather(1, _last_true(starts).clamp(min=0)).masked_fill(~mask, 0.0)


def _last_true(mask: torch.Tensor) -> torch.Tensor:
    """``(B, T)`` int: the place of the last True at or before each place; -1 before the first."""
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return places.masked_fill(~mask, -1).cummax(dim=1).values


def _step_starts(step_index: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """``(B, T)`` bool: True at the first chosen token of each reasoning step."""
    highest = step_index.masked_fill(~response_mask, -1).cummax(dim=1).values
    before = torch.nn.functional.pad(highest[:, :-1], (1, 0), value=-1)  # of the chosen tokens before each place
    falls = response_mask & (step_index < before.clamp(min=0))
    if falls.any():
        row, place = falls.nonzero()[0].tolist()
        raise ValueError(
            f"Expected step_index >= 0, never falling along a response, actual: {step_index[row, place].item()} in row "
            f"{row} at place {place} after {before[row, place].item()}. Number the steps 0, 1, ... as they come."
        )
    return response_mask & (step_index > before)
