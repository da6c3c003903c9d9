"""vLLM as the engine of a :class:`~llmgym.agents.samplers.SampledPolicy`.

The thin side that speaks to vLLM; what is ours (handing out, divergence, restarts) is in
:mod:`llmgym.agents.samplers`. vLLM is imported when a :class:`VLLMSampler` is made, and not before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from llmgym.agents.policies import Policy
from llmgym.agents.samplers import Continuation
from llmgym.errors import missing_extra

__all__ = ["VLLMSampler"]


class VLLMSampler:
    """An offline vLLM engine: a :class:`~llmgym.agents.samplers.BatchSampler`.

    Args:
        model: Folder or hub name of the model, whose weights are replaced by the policy's.
        weights_dir: Where the weights are written down to be handed over; best a file system in memory
            (``"/dev/shm"``). ``None``: where temporary files go.
        seeded: Whether each response has a random seed of its own, so that the same policy writes the same again.
            vLLM then samples request by request, which is slower; False leaves it to the engine's own generator.
        **engine_options: Arguments of ``vllm.LLM``, such as ``gpu_memory_utilization`` (the learner needs the rest),
            ``tensor_parallel_size`` or ``max_model_len``.

    Attributes:
        llm: The engine.

    Raises:
        MissingExtraError: If vLLM is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        weights_dir: str | os.PathLike[str] | None = None,
        seeded: bool = True,
        **engine_options: Any,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise missing_extra("vllm", "vllm") from error
        self.weights_dir = weights_dir
        self.seeded = seeded
        self._sampling_params = vllm.SamplingParams
        # Log-probabilities after the temperature, as the learner has them; vLLM's own default is before.
        self.llm = vllm.LLM(model=os.fspath(model), logprobs_mode="processed_logprobs", **engine_options)
        self._vocab_size = 0

    def load_weights(self, policy: Policy) -> None:
        """Write the policy's weights down, adapters merged, and let every worker read them."""
        self._vocab_size = policy.model.config.get_text_config().vocab_size
        whole = policy.merged() if policy.has_adapters else policy
        # A new folder each time: a worker may keep what it has read of a path.
        with tempfile.TemporaryDirectory(dir=self.weights_dir) as folder:
            whole.save(folder)
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self.llm.reset_prefix_cache()  # keys and values of the old weights

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
        """As :meth:`BatchSampler.generate <llmgym.agents.samplers.BatchSampler.generate>` has it."""
        common: dict[str, Any] = {
            "temperature": temperature,
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
            "stop_token_ids": None if end_token_id is None else [end_token_id],
            "allowed_token_ids": None if n_actions >= self._vocab_size else list(range(n_actions)),
        }
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [
                self._sampling_params(max_tokens=limit, seed=seed + i if self.seeded else None, **common)
                for i, limit in enumerate(max_tokens)
            ],
            use_tqdm=False,
        )
        written = [output.outputs[0] for output in outputs]
        return [
            Continuation(
                list(one.token_ids),
                [of[token].logprob for token, of in zip(one.token_ids, one.logprobs, strict=True)],
            )
            for one in written
        ]
