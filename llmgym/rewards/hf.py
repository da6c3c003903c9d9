"""Scoring reasoning steps with a Hugging Face token-classification model (a process reward model)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from llmgym.errors import InvalidOptionError, missing_extra


class HFStepScorer:
    r"""Probability that each reasoning step is right, by any Hugging Face token-classification model.

    The input is the question and then each step followed by ``step_separator``, all tokenised piece by piece; the
    probability of the positive label is read at the last token of each separator. So TRL's ``PRMTrainer`` sets its
    labels and its guide runs the model (separator ``"\n"``, after the question too). For a model trained on one
    special token after each step, give that token as separator, and its chat format as ``question_format``.

    The model is loaded at the first call. A model with one output is read through a sigmoid, one with more through a
    softmax.

    Args:
        model_name_or_path: A folder or a hub name; its tokenizer is loaded from the same place.
        step_separator: Text after each step; at least one token.
        question_format: Text before the first step; ``{question}`` is the question. The default separates the two by
            a line break.
        positive_label: Which output means "right"; label 1 in TRL and most published models.
        causal: Whether a token of the model sees only what is before it. False, for a model like BERT, runs each step
            with nothing after it, so that a score does not change as the response grows.
        batch_size: Responses in one forward pass.
        device: Where to run, e.g. ``"cuda"``; ``None`` takes a GPU where there is one.
        dtype: Weights' type by name, e.g. ``"bfloat16"``; ``None`` keeps float32.

    Raises:
        MissingExtraError: At the first call, where torch or transformers is not installed.

    Source: TRL's ``PRMTrainer``; Zhang et al., arXiv:2501.07301 (one separator token after each step).
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        *,
        step_separator: str = "\n",
        question_format: str = "{question}\n",
        positive_label: int = 1,
        causal: bool = True,
        batch_size: int = 16,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        if not step_separator:
            raise InvalidOptionError("Expected `step_separator` to have at least one character, actual: ''.")
        if batch_size < 1:
            raise InvalidOptionError(f"Expected `batch_size` >= 1, actual: {batch_size}.")
        if "{question}" not in question_format:
            raise InvalidOptionError(f"Expected `question_format` to hold {{question}}, actual: {question_format!r}.")
        self.model_name_or_path = os.fspath(model_name_or_path)
        self.step_separator = step_separator
        self.question_format = question_format
        self.positive_label = positive_label
        self.causal = causal
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self._loaded: tuple[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"HFStepScorer({self.model_name_or_path!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: a copy in another process loads its own."""
        return {**self.__dict__, "_loaded": None}

    def score_steps(self, question: str, steps: Sequence[str]) -> list[float]:
        """Probability of each step, in [0, 1]."""
        return self.score_batch([(question, steps)])[0]

    def score_batch(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """:meth:`score_steps` of several questions, ``batch_size`` to a forward pass."""
        if not self.causal:
            grown = [(question, steps[: n + 1]) for question, steps in requests for n in range(len(steps))]
            last_scores = iter(scores[-1] for scores in self._score_batch(grown))
            return [[next(last_scores) for _ in steps] for _, steps in requests]
        return self._score_batch(requests)

    def _score_batch(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        tokenizer, model = self._load()
        import torch

        encoded = [self._encode(tokenizer, question, steps) for question, steps in requests]
        scores: list[list[float]] = []
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        for start in range(0, len(encoded), self.batch_size):
            chunk = encoded[start : start + self.batch_size]
            width = max(len(ids) for ids, _ in chunk)
            self._check_width(model, width)
            input_ids = torch.full((len(chunk), width), pad, dtype=torch.long)  # (b, S), padded right
            attention_mask = torch.zeros((len(chunk), width), dtype=torch.long)
            for row, (ids, _) in enumerate(chunk):
                input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
                attention_mask[row, : len(ids)] = 1  # from lengths: the padding id may also be a real token
            with torch.inference_mode():
                logits = model(
                    input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)
                ).logits
            logits = logits.float().cpu()
            if logits.shape[-1] == 1:
                right = logits.sigmoid()[..., 0]
            else:
                right = logits.softmax(dim=-1)[..., self.positive_label]  # (b, S)
            scores += [[float(right[row, end]) for end in ends] for row, (_, ends) in enumerate(chunk)]
        return scores

    def _encode(self, tokenizer: Any, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """Token ids, and for each step the index of its separator's last token."""
        ids: list[int] = tokenizer.encode(
            self.question_format.replace("{question}", question), add_special_tokens=False
        )
        if tokenizer.bos_token_id is not None and (not ids or ids[0] != tokenizer.bos_token_id):
            ids = [tokenizer.bos_token_id, *ids]
        separator = tokenizer.encode(self.step_separator, add_special_tokens=False)
        if not separator:
            raise InvalidOptionError(
                f"Expected `step_separator` to be at least one token of {self.model_name_or_path!r}, "
                f"actual: {self.step_separator!r} gives none. Choose another separator."
            )
        ends = []
        for step in steps:
            ids += tokenizer.encode(step, add_special_tokens=False) + separator
            ends.append(len(ids) - 1)
        return ids, ends

    def _check_width(self, model: Any, width: int) -> None:
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and width > limit:
            raise InvalidOptionError(
                f"Expected at most {limit} tokens of question and steps (the scorer's context), actual: {width}. "
                "Lower `max_new_tokens`, or choose a scorer with a longer context."
            )

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                import torch
            except ImportError as error:
                raise missing_extra("torch", "agents") from error
            try:
                from transformers import AutoModelForTokenClassification, AutoTokenizer
            except ImportError as error:
                raise missing_extra("transformers", "agents") from error
            tokenizer = AutoTokenizer.from_pretrained(self.model_name_or_path)
            dtype = getattr(torch, self.dtype) if self.dtype else torch.float32
            model = AutoModelForTokenClassification.from_pretrained(self.model_name_or_path, dtype=dtype)
            n_labels = model.config.num_labels
            if n_labels > 1 and not 0 <= self.positive_label < n_labels:
                raise InvalidOptionError(
                    f"Expected `positive_label` below the model's {n_labels} labels, actual: {self.positive_label}."
                )
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._loaded = (tokenizer, model.to(device).eval())
        return self._loaded
