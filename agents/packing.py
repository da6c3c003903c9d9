"""Which tokens a pass of learning reads, in rows without padding.

All real tokens of a microbatch stand in one row, one transcript after the other. Matrix products, norms and everything
else that treats tokens alone run over that row as it is; attention alone has to know where a transcript begins. A
prompt that several responses continue stands there once, and each of them attends to it; a prompt with one response is
one sequence with it, which is the cheaper way to the same numbers. No model in sight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]

#: Sequences share a bucket of attention as long as its places are at most so many times its tokens, and the places of
#: the keys that these attend to at most the square of it.
_SLACK = 1.25


@dataclass(frozen=True)
class Bucket:
    """Sequences of like length whose attention is computed at once: ``b`` of them, at most ``T`` tokens long.

    Attributes:
        rows: The packed rows that hold their tokens, one sequence after the other.
        shape: ``(b, T)``.
        places: ``(b * T,)`` int64. The packed row at each place, any at padding; ``None``: all are ``T`` long.
        inverse: ``(rows,)`` int64. The place of each packed row; ``None`` likewise.
        keys: ``(b * K,)`` int64. Packed rows attended to, those of the prompt first; ``None``: the sequences' own.
        ahead: ``(1 or b, 1, T, K)`` bool. True where a key comes after the query; ``None``: its column does, as in a
            plain causal sequence.
    """

    rows: slice | torch.Tensor
    shape: tuple[int, int]
    places: torch.Tensor | None
    inverse: torch.Tensor | None
    keys: torch.Tensor | None
    ahead: torch.Tensor | None

    def moved(self, to: torch.Tensor) -> Bucket:
        """The same sequences where packed row ``i`` has become ``to[i]``."""
        rows = to[self.rows]
        places = rows if self.places is None else to[self.places]
        return replace(self, rows=rows, places=places, keys=None if self.keys is None else to[self.keys])


@dataclass(frozen=True)
class Packing:
    """The ``n`` tokens of a pass and the states that are wanted of it.

    Attributes:
        ids: ``(n,)`` int64.
        positions: ``(n,)`` int64. Of each token in its transcript.
        buckets: One after the other they are all the packed rows.
        states: ``(m,)`` int64. Packed rows in whose state a policy chose a token, in the order of the response mask.
        last_states: ``(B,)`` int64. The same after the last token of each response; ``None`` if not asked for.
        wanted: ``(w,)`` int64. All rows in the two, each once.
        responses: ``(n,)`` int64. A response in whose transcript each token is; ``None`` where rows were moved.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    buckets: tuple[Bucket, ...]
    states: torch.Tensor
    last_states: torch.Tensor | None
    wanted: torch.Tensor
    responses: Ints | None

    def moved(self, to: Ints, n: int) -> Packing:
        """The same pass where packed row ``i`` has become ``to[i]`` of ``n``; what is in others is read by nobody."""
        index = torch.from_numpy(to).to(self.ids.device)
        return Packing(
            ids=self.ids.new_zeros(n).index_copy_(0, index, self.ids),
            positions=self.positions.new_zeros(n).index_copy_(0, index, self.positions),
            buckets=tuple(bucket.moved(index) for bucket in self.buckets),
            states=index[self.states],
            last_states=None if self.last_states is None else index[self.last_states],
            wanted=index[self.wanted],
            responses=None,
        )


@dataclass(frozen=True)
class _Sequences:
    """Stretches of transcripts, in the order in which they are packed.

    Attributes:
        row: Response whose transcript it is a stretch of.
        begin: Its first column there.
        length: Its tokens.
        start: Its first packed row.
        prefix: First packed row of its prompt; -1 where the stretch begins the transcript.
    """

    row: Ints
    begin: Ints
    length: Ints
    start: Ints
    prefix: Ints


def pack(
    prompt_ids: torch.Tensor,
    prompt_lengths: torch.Tensor,
    response_ids: torch.Tensor,
    response_mask: torch.Tensor,
    prompt_index: torch.Tensor,
    *,
    response_lengths: torch.Tensor | None = None,
    with_last: bool = False,
) -> Packing:
    """Pack a microbatch: each prompt that has a response once, each response as far as it is needed.

    Args:
        prompt_ids: ``(P, L)`` int64, padded right.
        prompt_lengths: ``(P,)`` int64, at least 1.
        response_ids: ``(B, T)`` int64, padded right.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        prompt_index: ``(B,)`` int64. The prompt of each response.
        response_lengths: ``(B,)`` int64. ``None``: a response ends with the last token that the policy chose.
        with_last: Whether the state after a response's last token is wanted too.
    """
    index = prompt_index.cpu().numpy()
    prompt = prompt_lengths.cpu().numpy()[index]  # (B,)
    mask = response_mask.cpu().numpy()
    chosen = _up_to_last(mask)
    ends = chosen if response_lengths is None else response_lengths.cpu().numpy()
    # The last token predicts nothing that was chosen: it is fed only where the state after it is wanted.
    fed = ends if with_last else np.maximum(chosen - 1, 0)
    sequences, first = _sequences(index, prompt, fed)

    def states_after(row: Ints, column: Ints) -> Ints:
        """Packed rows after ``column`` tokens of responses ``row``: of the prompt's last token at first."""
        start, last = first[row], prompt_start[index[row]] + prompt[row] - 1
        return np.where(column == 0, last, start + column - 1)

    device = response_ids.device
    prompt_start = np.zeros(len(prompt_ids), dtype=np.int64)
    heads = sequences.begin == 0
    prompt_start[index[sequences.row[heads]]] = sequences.start[heads]
    of_token = np.repeat(np.arange(len(sequences.row)), sequences.length)
    row = sequences.row[of_token]
    column = np.arange(len(of_token)) - sequences.start[of_token] + sequences.begin[of_token]
    # Columns of prompts padded to one width with the responses after them.
    place = np.where(column < prompt[row], column, column - prompt[row] + prompt_ids.shape[1])
    joined = torch.cat([prompt_ids[prompt_index], response_ids], dim=1)
    at = torch.from_numpy(np.stack([row, place])).to(device)
    states = states_after(*mask.nonzero())
    last_states = states_after(np.arange(len(ends)), ends) if with_last else states[:0]
    return Packing(
        ids=joined[at[0], at[1]],
        positions=torch.from_numpy(column).to(device),
        buckets=tuple(_buckets(sequences, device)),
        states=torch.from_numpy(states).to(device),
        last_states=torch.from_numpy(last_states).to(device) if with_last else None,
        wanted=torch.from_numpy(np.unique(np.concatenate([states, last_states]))).to(device),
        responses=row,
    )


def transcripts(
    prompt_ids: torch.Tensor,
    prompt_lengths: torch.Tensor,
    response_ids: torch.Tensor,
    response_mask: torch.Tensor,
    prompt_index: torch.Tensor,
) -> list[Ints]:
    """The tokens of each response that :func:`pack` feeds, its prompt's first; without last states.

    Args:
        prompt_ids: ``(P, L)`` int64, padded right.
        prompt_lengths: ``(P,)`` int64, at least 1.
        response_ids: ``(B, T)`` int64, padded right.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        prompt_index: ``(B,)`` int64. The prompt of each response.
    """
    prompts, lengths, index = prompt_ids.cpu().numpy(), prompt_lengths.cpu().numpy(), prompt_index.cpu().numpy()
    responses, fed = response_ids.cpu().numpy(), np.maximum(_up_to_last(response_mask.cpu().numpy()) - 1, 0)
    return [
        np.concatenate([prompts[prompt, : lengths[prompt]], response[:n]])
        for prompt, response, n in zip(index, responses, fed, strict=True)
    ]


def _up_to_last(mask: npt.NDArray[np.bool_]) -> Ints:
    """``(B,)``: how many tokens of each response there are up to the last one that the policy chose."""
    return np.where(mask.any(1), mask.shape[1] - mask[:, ::-1].argmax(1), 0)


def _sequences(index: Ints, prompt: Ints, fed: Ints) -> tuple[_Sequences, Ints]:
    """What is packed, and the packed row of each response's first token."""
    readers = np.bincount(index)
    alone = readers[index] == 1
    rows = np.arange(len(index))
    shared, holder = np.unique(index[~alone], return_index=True)
    holder = rows[~alone][holder]  # a response of each shared prompt
    follows = rows[~alone & (fed > 0)]
    row = np.concatenate([rows[alone], holder, follows])
    begin = np.concatenate([np.zeros(len(row) - len(follows), dtype=np.int64), prompt[follows]])
    length = np.concatenate([prompt[alone] + fed[alone], prompt[holder], fed[follows]])
    # Prompts of like length together too: a bucket has as many columns of keys as its longest prompt needs.
    reach = np.ceil(np.log(np.maximum(begin, 1)) / np.log(_SLACK))
    order = np.lexsort((-length, reach, begin > 0))
    row, begin, length = row[order], begin[order], length[order]
    start = np.cumsum(length) - length
    prompt_start = np.zeros(len(readers), dtype=np.int64)
    heads = begin == 0
    prompt_start[index[row[heads]]] = start[heads]
    prefix = np.where(heads, -1, prompt_start[index[row]])
    first = np.zeros(len(index), dtype=np.int64)
    first[row[~heads]] = start[~heads]
    first[alone] = prompt_start[index[alone]] + prompt[alone]
    return _Sequences(row, begin, length, start, prefix), first


def _buckets(sequences: _Sequences, device: torch.device) -> list[Bucket]:
    """Neighbours of like length together, those that follow a prompt apart from those that do not."""
    buckets = []
    begin, n = 0, len(sequences.length)
    while begin < n:
        width, total, end = int(sequences.length[begin]), 0, begin  # the longest comes first
        follows = sequences.prefix[begin] >= 0
        widest, reached = 0, 0  # columns of keys
        while end < n and (sequences.prefix[end] >= 0) == follows and sequences.length[end] <= width:
            columns = int(sequences.begin[end] + sequences.length[end])
            widest, reached = max(widest, columns), reached + columns
            total += int(sequences.length[end])
            size = end + 1 - begin
            if width * size > _SLACK * total or widest * size > _SLACK**2 * reached:
                break
            end += 1
        buckets.append(_bucket(sequences, slice(begin, end), device))
        begin = end
    return buckets


def _bucket(sequences: _Sequences, members: slice, device: torch.device) -> Bucket:
    length, start, prefix = sequences.length[members], sequences.start[members], sequences.prefix[members]
    b, width = len(length), int(length[0])
    rows = slice(int(start[0]), int(start[-1] + length[-1]))
    steps = np.arange(width)
    places = inverse = None
    own = start[:, None] + np.minimum(steps, length[:, None] - 1)
    if length.min() < width:
        places = torch.from_numpy(own.reshape(-1)).to(device)
        inverse = torch.from_numpy(np.flatnonzero(steps < length[:, None])).to(device)
    if prefix[0] < 0:
        return Bucket(rows, (b, width), places, inverse, None, None)
    before = sequences.begin[members]
    columns = np.arange(int((before + length).max()))
    after = np.minimum(columns - before[:, None], length[:, None] - 1)
    keys = np.where(after < 0, prefix[:, None] + columns, start[:, None] + after)
    reach = before[:1] if (before == before[0]).all() else before
    ahead = torch.from_numpy(columns > reach[:, None, None] + steps[:, None]).to(device).unsqueeze(1)
    return Bucket(rows, (b, width), places, inverse, torch.from_numpy(keys.reshape(-1)).to(device), ahead)
