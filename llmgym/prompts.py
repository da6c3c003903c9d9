"""From a question to a prompt: named templates, format strings, chat templates."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from llmgym.errors import InvalidOptionError
from llmgym.tokenizers import Tokenizer

#: What stands for the question in a template. Replaced literally, so that other braces need no escape.
_PLACE = "{question}"

CHAT = "chat"

PROMPT_TEMPLATES: dict[str, str] = {
    "plain": "{question}\n",
    "r1": (
        "Solve the problem below. First think it through, one small calculation on each line, between <think> and "
        "</think>. Then give only the final answer between <answer> and </answer>.\n\n"
        "Problem: {question}\n\nSolution: "
    ),
}


def render_prompt(question: str, template: str, system_prompt: str | None, tokenizer: Tokenizer) -> str:
    """The prompt for a question.

    Args:
        question: What is asked.
        template: A name in :data:`PROMPT_TEMPLATES`, a text with ``{question}`` in it, or ``"chat"``.
        system_prompt: First message of a chat; ``None`` for none.
        tokenizer: Brings the chat template.
    """
    if template != CHAT:
        return PROMPT_TEMPLATES.get(template, template).replace(_PLACE, question)
    messages = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return tokenizer.apply_chat_template([*messages, {"role": "user", "content": question}])


@lru_cache(maxsize=1024)  # responses to one problem are sampled in groups, and most of a reset would be this
def encode_prompt(
    question: str, template: str, system_prompt: str | None, tokenizer: Tokenizer
) -> tuple[str, npt.NDArray[np.int32]]:
    """The prompt for a question, and its ids.

    Args:
        question: What is asked.
        template: See :func:`render_prompt`.
        system_prompt: See :func:`render_prompt`.
        tokenizer: Encodes the prompt.

    Returns:
        The prompt, and ``(L,)`` int32, read-only: its ids.
    """
    prompt = render_prompt(question, template, system_prompt, tokenizer)
    ids = np.array(tokenizer.encode(prompt), dtype=np.int32)
    ids.flags.writeable = False
    return prompt, ids


def check_template(template: str, system_prompt: str | None) -> None:
    """Refuse a template that is none.

    Raises:
        InvalidOptionError: If ``template`` is neither a name nor a text with ``{question}`` in it, or a system prompt
            is given for a template that has no place for it.
    """
    known = isinstance(template, str) and (template in (*PROMPT_TEMPLATES, CHAT) or _PLACE in template)
    if not known:
        names = ", ".join(sorted([*PROMPT_TEMPLATES, CHAT]))
        raise InvalidOptionError(
            f"Expected `prompt_template` among {names}, or a text with {_PLACE} in it, actual: {template!r}. "
            f"Put {_PLACE} where the question belongs."
        )
    if system_prompt is not None and template != CHAT:
        raise InvalidOptionError(
            f'Expected `system_prompt` only with prompt_template="chat", actual: {system_prompt!r} with {template!r}. '
            "Write it into the template."
        )
