"""An engine beside the policy: transformers' own ``generate``, on a copy of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from llmgym.agents.policies import Policy
from llmgym.agents.samplers import Continuation


class GenerateSampler:
    """A ``BatchSampler``.

    Attributes:
        prompts: Those of each call.
        n_loads: How often weights were handed over.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = copy.deepcopy(model).eval()
        with torch.no_grad():
            for weights in self.model.parameters():
                weights.zero_()  # nothing is sampled from what was not handed over
        self.prompts: list[list[list[int]]] = []
        self.n_loads = 0

    def load_weights(self, policy: Policy) -> None:
        whole = policy.merged() if policy.has_adapters else policy
        self.model.load_state_dict(whole.model.state_dict())
        self.n_loads += 1

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: Sequence[int],
        *,
        temperature: float,
        n_actions: int,
        end_token_id: int | None,
        seed: int,
    ) -> list[Continuation]:
        self.prompts.append([list(prompt) for prompt in prompts])
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        beyond = list(range(n_actions, self.model.config.vocab_size))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            out = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=max(max_tokens),
                eos_token_id=end_token_id,
                pad_token_id=0,
                suppress_tokens=beyond or None,
                output_logits=True,
                return_dict_in_generate=True,
            )
        written = out.sequences[:, width:]
        logits = torch.stack(out.logits, dim=1)[..., :n_actions] / temperature
        logprobs = logits.log_softmax(-1).gather(2, written.unsqueeze(2))[..., 0]
        continuations = []
        for row, limit in enumerate(max_tokens):
            tokens = written[row, :limit].tolist()
            n = tokens.index(end_token_id) + 1 if end_token_id in tokens else len(tokens)
            continuations.append(Continuation(tokens[:n], logprobs[row, :n].tolist()))
        return continuations
