"""Packing: real tokens alone, each prompt once, and attention told where each token stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from llmgym.agents.packing import Packing, pack  # noqa: E402

SIZES = {"seed": st.integers(0, 2**31), "n_prompts": st.integers(1, 4), "n_responses": st.integers(1, 9)}


class Problem:
    """Random prompts and responses, holes in some, and nothing chosen in a few; no id comes twice."""

    def __init__(self, seed: int, n_prompts: int, n_responses: int) -> None:
        rng = np.random.default_rng(seed)
        self.prompt_lengths = rng.integers(1, 6, size=n_prompts)
        self.lengths = rng.integers(1, 12, size=n_responses)
        self.index = rng.integers(0, n_prompts, size=n_responses)
        inside = np.arange(12) < self.lengths[:, None]
        self.mask = inside & (rng.random((n_responses, 12)) < 0.7)
        self.prompts = 1000 + np.arange(n_prompts * 7).reshape(n_prompts, 7)
        self.responses = np.arange(n_responses * 12).reshape(n_responses, 12)

    def pack(self, *, with_last: bool) -> Packing:
        tensors = map(torch.from_numpy, (self.prompts, self.prompt_lengths, self.responses, self.mask, self.index))
        lengths = torch.from_numpy(self.lengths)
        return pack(*tensors, response_lengths=lengths if with_last else None, with_last=with_last)

    def transcript(self, row: int) -> list[int]:
        prompt = self.index[row]
        ids = [self.prompts[prompt, : self.prompt_lengths[prompt]], self.responses[row, : self.lengths[row]]]
        return [int(token) for token in np.concatenate(ids)]


def context(packing: Packing, row: int) -> list[int]:
    """What attention lets a packed row see, from the buckets alone."""
    bucket = next(b for b in packing.buckets if b.rows.start <= row < b.rows.stop)
    n, width = bucket.shape
    place = row - bucket.rows.start if bucket.inverse is None else int(bucket.inverse[row - bucket.rows.start])
    sequence, column = divmod(place, width)
    own = torch.arange(bucket.rows.start, bucket.rows.stop) if bucket.places is None else bucket.places
    keys = (own if bucket.keys is None else bucket.keys).view(n, -1)[sequence]
    if bucket.ahead is None:
        return packing.ids[keys[: column + 1]].tolist()
    ahead = bucket.ahead.expand(n, 1, width, -1)[sequence, 0, column]
    return packing.ids[keys[~ahead]].tolist()


@given(**SIZES, with_last=st.booleans())
def test_each_state_sees_its_transcript_and_nothing_else(
    seed: int, n_prompts: int, n_responses: int, with_last: bool
) -> None:
    problem = Problem(seed, n_prompts, n_responses)
    packing = problem.pack(with_last=with_last)
    wanted = [problem.transcript(row)[: problem.prompt_lengths[problem.index[row]] + column]
              for row, column in zip(*problem.mask.nonzero(), strict=True)]  # fmt: skip
    if with_last:
        assert packing.last_states is not None
        wanted += [problem.transcript(row) for row in range(n_responses)]
    states = packing.states if packing.last_states is None else torch.cat([packing.states, packing.last_states])
    assert [context(packing, int(state)) for state in states] == wanted
    assert packing.positions[states].tolist() == [len(transcript) - 1 for transcript in wanted]
    assert packing.wanted.tolist() == sorted(set(states.tolist()))


@given(**SIZES, with_last=st.booleans())
def test_no_token_is_padding_and_none_comes_twice(seed: int, n_prompts: int, n_responses: int, with_last: bool) -> None:
    problem = Problem(seed, n_prompts, n_responses)
    packing = problem.pack(with_last=with_last)
    ids = packing.ids.tolist()
    assert len(set(ids)) == len(ids)
    needed = {token for p in set(problem.index) for token in problem.prompts[p, : problem.prompt_lengths[p]].tolist()}
    for row in range(n_responses):
        chosen = problem.mask[row].nonzero()[0]
        fed = problem.lengths[row] if with_last else max(chosen, default=0)  # the last chosen token is not fed
        needed |= set(problem.responses[row, :fed].tolist())
    assert set(ids) == needed
    stops = [0, *(bucket.rows.stop for bucket in packing.buckets)]
    assert [bucket.rows.start for bucket in packing.buckets] == stops[:-1]
    assert stops[-1] == len(ids)


def test_buckets_hold_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 33, size=128)
    mask: Any = torch.from_numpy(np.arange(32) < lengths[:, None])
    prompts, responses = torch.zeros(16, 6, dtype=torch.long), torch.zeros(128, 32, dtype=torch.long)
    index = torch.arange(16).repeat_interleave(8)
    packing = pack(prompts, torch.full((16,), 6), responses, mask, index)
    assert len(packing.ids) == 16 * 6 + (lengths - 1).sum()
    assert sum(b.shape[0] * b.shape[1] for b in packing.buckets) < 1.25 * len(packing.ids)
    assert len(packing.buckets) < 10


def test_one_long_prompt_does_not_lengthen_the_keys_of_all() -> None:
    """Fifteen prompts of 40 tokens and one of 600, eight responses of 16 to each."""
    prompt_lengths = torch.tensor([40] * 15 + [600])
    index = torch.arange(16).repeat_interleave(8)
    prompts, responses = torch.zeros(16, 600, dtype=torch.long), torch.zeros(128, 16, dtype=torch.long)
    packing = pack(prompts, prompt_lengths, responses, torch.ones(128, 16, dtype=torch.bool), index)
    gathered = sum(len(bucket.keys) for bucket in packing.buckets if bucket.keys is not None)
    assert gathered == int((prompt_lengths[index] + 15).sum())
