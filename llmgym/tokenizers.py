"""Text to token ids and back, from one ``tokenizer.json`` that a model reads too.

Uses the ``tokenizers`` library alone: no torch, no transformers. Training tokenizers is not done here.

What the environment asks of a tokenizer goes beyond encode and decode: which tokens could close a reasoning step or
complete a stop string (so that the common token costs a table look-up and no decoding), and an encoding of a text that
is the same whether the text comes whole or step by step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmgym.errors import InvalidOptionError, missing_extra
from llmgym.transcript import split_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer

#: Name of the tokenizer that ships with the package.
TINY_REASONER = "tiny-reasoner"

_ASSETS = Path(__file__).parent / "assets"
_CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
_CHAT_TEMPLATE_FILE = "chat_template.jinja"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Where no configuration names the end token (a bare tokenizer.json), these are tried in order.
_USUAL_END_TOKENS = ("<eos>", "</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>")
#: A pre-tokenizer's pattern that makes every digit, sign and line end a word of its own, whatever stands around it.
_ISOLATING = r"[^\s\p{L}]|\n"
#: Some of the characters that it isolates.
_ISOLATED = re.compile(r"([0-9\n!-/:-@\[-`{-~])")
#: Pieces between them whose ids are kept.
_MOST_PIECES = 4096
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A vocabulary with an end token. Cannot be changed; share it freely.

    Make one with :func:`load_tokenizer`.

    Attributes:
        name: What it was loaded from, or a fingerprint where it was made from JSON text.
        vocab_size: One more than the largest id, added tokens included.
        end_token: Text of the token that closes a response.
        end_token_id: Its id.
        pad_token_id: Id that fills what is not written yet; the end token's where the vocabulary has none of its own.
        chat_template: Jinja source of the chat template; ``None`` where the tokenizer has none.
    """

    def __init__(self, name: str, tokenizer_json: str, config: Mapping[str, Any] | None = None) -> None:
        from tokenizers import Tokenizer as BackendTokenizer

        self.name = name
        self._json = tokenizer_json
        self._config: dict[str, Any] = dict(config or {})
        self._backend: BackendTokenizer = BackendTokenizer.from_str(tokenizer_json)
        # A tokenizer.json may ask for padding or cutting; a state is never padded or cut behind the agent's back.
        self._backend.no_padding()
        self._backend.no_truncation()
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1
        self._pieces: list[str | None] = [None] * self.vocab_size
        for piece, token in vocabulary.items():
            self._pieces[token] = piece
        self.end_token_id: int = _find_end_token(self._config, vocabulary, name)
        self.end_token: str = str(self._pieces[self.end_token_id])
        pad = vocabulary.get(_token_text(self._config.get("pad_token")) or "<pad>")
        self.pad_token_id: int = self.end_token_id if pad is None else pad
        self.chat_template: str | None = _default_template(self._config.get("chat_template"))
        description = json.loads(tokenizer_json)
        self._bytes = _bytes_of_tokens(self._pieces, description)
        self._continuation = _without_leading_blank(description, self._backend)
        self._added = [token["content"] for token in description.get("added_tokens") or ()]
        self._piece_ids: dict[str, list[int]] | None = {"": []} if _isolates_signs(description) else None

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``. Special tokens written out in it are recognised; none is added."""
        if self._piece_ids is not None and not any(token in text for token in self._added):
            ids = self._encode_pieces(text, self._piece_ids)
            if ids is not None:
                return ids
        return self._encode_whole(text)

    def _encode_whole(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _encode_pieces(self, text: str, known: dict[str, list[int]]) -> list[int] | None:
        """Ids of ``text`` put together from those of its pieces; ``None`` where one is not known, nor can be kept.

        Problems that are made from a template share all pieces but the numbers, and those are cut into digits.
        """
        ids: list[int] = []
        for piece in _ISOLATED.split(text):
            piece_ids = known.get(piece)
            if piece_ids is None:
                if len(known) >= _MOST_PIECES:
                    return None
                piece_ids = known[piece] = self._encode_whole(piece)
            ids += piece_ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`encode` of each text."""
        return [self.encode(text) for text in texts]

    def encode_steps(self, text: str, delimiter: str) -> list[int]:
        """Ids of ``text``, each reasoning step encoded by itself.

        A text thus has the same ids whether it is written whole or one step at a time. It is taken to continue
        something: a tokenizer that puts a blank before a text's first word does not do so here.
        """
        encode = self._continuation.encode
        ids: list[int] = []
        for step in split_steps(text, delimiter):
            ids += encode(step, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens included, nothing cleaned up. Never fails: broken UTF-8 becomes U+FFFD."""
        if self._bytes is None:
            text: str = self._backend.decode(list(ids), skip_special_tokens=False)
            return text
        if len(ids) < 2:
            return b"".join(self._bytes[token] for token in ids).decode("utf-8", "replace")
        return b"".join(itemgetter(*ids)(self._bytes)).decode("utf-8", "replace")  # the quickest of several ways

    def token_text(self, token: int) -> str:
        """Text of one token by itself."""
        return self.decode([token])

    @lru_cache(maxsize=64)  # noqa: B019 - tokenizers are few and live as long as the process
    def ids_containing(self, substring: str) -> npt.NDArray[np.bool_]:
        """``(V,)`` bool, read-only: True for tokens whose own text contains ``substring``."""
        table = np.array([substring in self.token_text(token) for token in range(self.vocab_size)], dtype=np.bool_)
        table.flags.writeable = False
        return table

    @lru_cache(maxsize=64)  # noqa: B019
    def ids_completing(self, substring: str) -> npt.NDArray[np.bool_]:
        """``(V,)`` bool, read-only: True for tokens that may complete ``substring`` when appended to some text.

        True for too many rather than too few: whoever asks looks at the text itself for those tokens.
        """
        if self._bytes is None:
            table = np.ones(self.vocab_size, dtype=np.bool_)
        else:
            last = substring.encode("utf-8")[-1:]
            table = np.array([last in piece for piece in self._bytes], dtype=np.bool_)
        table.flags.writeable = False
        return table

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as the model was trained to see it, ending where the assistant's answer starts.

        Args:
            messages: ``{"role": ..., "content": ...}`` each.

        Raises:
            InvalidOptionError: If the tokenizer has no chat template, or it refuses the messages.
            MissingExtraError: If ``jinja2`` is missing.
        """
        if self.chat_template is None:
            raise InvalidOptionError(
                f"Expected a tokenizer with a chat template, actual: {self.name!r}, which has none. "
                'Choose another `prompt_template`, e.g. "plain".'
            )
        try:
            from jinja2 import TemplateError
        except ImportError as error:
            raise missing_extra("jinja2", "agents") from error

        special: dict[str, Any] = {
            key: _token_text(value) or "" for key, value in self._config.items() if key.endswith("_token")
        }
        # `tools` and `documents` as transformers passes them: some templates ask whether they are None.
        special |= {"tools": None, "documents": None}
        try:
            template = _compile_template(self.chat_template)
            return str(template.render(messages=list(messages), add_generation_prompt=True, **special))
        except TemplateError as error:
            raise InvalidOptionError(
                f"Expected a chat template that takes these messages, actual: that of {self.name!r} refuses them "
                f"({error}). Change `system_prompt`, or choose another `prompt_template`."
            ) from error

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, for :func:`load_tokenizer` and for transformers."""
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        # Ids belong to a model's configuration; there transformers would warn about them.
        config |= {key: value for key, value in self._config.items() if not key.endswith("_token_id")}
        config.setdefault("eos_token", self.end_token)
        (Path(folder) / "tokenizer.json").write_text(self._json, encoding="utf-8")
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (Path(folder) / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self._json, self._config)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self  # it cannot be changed

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size})"

    @classmethod
    def from_json(cls, tokenizer_json: str, **config: Any) -> Tokenizer:
        """A tokenizer from the text of a ``tokenizer.json``.

        Args:
            tokenizer_json: The text.
            config: What a ``tokenizer_config.json`` would hold, e.g. ``eos_token="<eos>"``.
        """
        fingerprint = hashlib.sha256((tokenizer_json + json.dumps(config, sort_keys=True)).encode()).hexdigest()
        return cls(f"json-{fingerprint[:12]}", tokenizer_json, config)


def pieces_tokenizer(pieces: Sequence[str], pattern: str) -> Tokenizer:
    """A closed vocabulary: one token for each piece of text, for environments that need no language.

    Args:
        pieces: The token of each id. The first three are ``<pad>``, ``<eos>`` and ``<unk>``.
        pattern: Regular expression of a piece, which everything else is cut into characters by: each is ``<unk>``.

    Example:
        >>> tokenizer = pieces_tokenizer(["<pad>", "<eos>", "<unk>", "0 ", "1 "], r"[0-9] |[\\s\\S]")
        >>> tokenizer.encode("1 0 x")
        [4, 3, 2]
    """
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    description: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i]} | special for i in range(3)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "unk_token": "<unk>",
        },
    }
    return Tokenizer.from_json(json.dumps(description), eos_token="<eos>", pad_token="<pad>")


def load_tokenizer(name_or_path: str | os.PathLike[str] | Tokenizer) -> Tokenizer:
    """The tokenizer of that name, loaded once for each process.

    Args:
        name_or_path: ``"tiny-reasoner"``, a folder with a ``tokenizer.json`` (and its configuration), a
            ``tokenizer.json`` itself, or a name on the Hugging Face hub. A :class:`Tokenizer` is returned as it is.

    Raises:
        InvalidOptionError: If there is no such tokenizer, or it has no end token.
    """
    if isinstance(name_or_path, Tokenizer):
        return name_or_path
    return _load(os.fspath(name_or_path))


@lru_cache(maxsize=16)
def _load(name: str) -> Tokenizer:
    path = _ASSETS / TINY_REASONER if name == TINY_REASONER else Path(name)
    if path.is_file():
        return Tokenizer(name, path.read_text(encoding="utf-8"), _read_config(path.parent))
    if (path / "tokenizer.json").is_file():
        return Tokenizer(name, (path / "tokenizer.json").read_text(encoding="utf-8"), _read_config(path))
    if path.exists() or name == TINY_REASONER or not _HUB_NAME.fullmatch(name):
        raise InvalidOptionError(
            f"Expected `tokenizer` to be {TINY_REASONER!r}, a folder with a tokenizer.json, such a file, or a hub "
            f"name; actual: {name!r}, where there is no tokenizer.json. Check the path."
        )
    return _load_from_hub(name)


def _restore(name: str, tokenizer_json: str, config: dict[str, Any]) -> Tokenizer:
    """Unpickle: carries the JSON, so that it works where the file is gone; the cache keeps it single."""
    return _restore_cached(name, tokenizer_json, json.dumps(config, sort_keys=True))


@lru_cache(maxsize=16)
def _restore_cached(name: str, tokenizer_json: str, config_json: str) -> Tokenizer:
    return Tokenizer(name, tokenizer_json, json.loads(config_json))


def _load_from_hub(name: str) -> Tokenizer:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise missing_extra("huggingface_hub", "agents") from error

    try:
        folder = Path(hf_hub_download(name, "tokenizer.json")).parent
    except (OSError, HfHubHTTPError, EntryNotFoundError) as error:
        raise InvalidOptionError(
            f"Expected `tokenizer` to be a folder here or a model on the hub with a tokenizer.json, actual: {name!r}, "
            f"which could not be fetched ({type(error).__name__}). Check the name and the network, or pass the path of "
            "a folder that holds a tokenizer.json."
        ) from error
    for file in (*_CONFIG_FILES, _CHAT_TEMPLATE_FILE):
        try:
            hf_hub_download(name, file)
        except (EntryNotFoundError, LocalEntryNotFoundError):
            continue  # each of them is optional
    return Tokenizer(name, (folder / "tokenizer.json").read_text(encoding="utf-8"), _read_config(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    """What the files beside a ``tokenizer.json`` say; the first file that names a token decides."""
    config: dict[str, Any] = {}
    for name in _CONFIG_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InvalidOptionError(
                f"Expected {path} to be JSON, actual: line {error.lineno}, column {error.colno}: {error.msg}. "
                "Mend the file, or download it again."
            ) from error
        for key, value in values.items():
            if key.endswith(("_token", "_token_id")) or key == "chat_template":
                config.setdefault(key, value)
    template = folder / _CHAT_TEMPLATE_FILE
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config


def _token_text(token: Any) -> str | None:
    """A special token is written as its text or as a dict that holds it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _find_end_token(config: Mapping[str, Any], vocabulary: Mapping[str, int], name: str) -> int:
    text = _token_text(config.get("eos_token"))
    if text is not None and text in vocabulary:
        return vocabulary[text]
    token = config.get("eos_token_id")
    if isinstance(token, list) and token:
        token = token[0]
    if isinstance(token, int):
        return token
    for usual in _USUAL_END_TOKENS:
        if usual in vocabulary:
            return vocabulary[usual]
    raise InvalidOptionError(
        f"Expected a tokenizer with an end token, actual: {name!r}, whose files name none. "
        'Add "eos_token" to its tokenizer_config.json.'
    )


def _default_template(template: Any) -> str | None:
    """A tokenizer has one chat template or several with names; of several, the default one."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


@lru_cache(maxsize=16)
def _compile_template(source: str) -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # type: ignore[misc]  # Jinja is optional, and not followed
        """``{% generation %}`` marks what the assistant says, for training; here it means nothing."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's way

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    # What chat templates on the hub are written for (transformers' settings). Sandboxed: a template is somebody else's
    # program. `strftime_now` is left out: with it the prompt would change from day to day, whatever the seed.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **({"ensure_ascii": False} | options))
    return environment.from_string(source)


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _bytes_of_tokens(pieces: Sequence[str | None], description: Mapping[str, Any]) -> list[bytes] | None:
    """What each token adds to a text, as UTF-8 bytes; ``None`` for decoders where a token has no text of its own."""
    steps = _flat(description.get("decoder"), "decoders")
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        alphabet = _byte_level_alphabet()

        def to_bytes(piece: str) -> bytes:
            values = [alphabet.get(character) for character in piece]
            known = [value for value in values if value is not None]
            return bytes(known) if len(known) == len(values) else piece.encode("utf-8")

    elif kinds == {"Fuse"}:

        def to_bytes(piece: str) -> bytes:
            return piece.encode("utf-8")

    elif kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        # SentencePiece style: "▁" is a blank and <0x0A> a byte. The leading blank that such decoders strip from a text
        # is kept: only the first token of a text would lose it, and what is decoded here continues a prompt.
        fallback = "ByteFallback" in kinds

        def to_bytes(piece: str) -> bytes:
            match = _BYTE_PIECE.fullmatch(piece) if fallback else None
            return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode("utf-8")

    else:
        return None
    return [b"" if piece is None else to_bytes(piece) for piece in pieces]


def _flat(component: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """The parts of a component of a tokenizer.json, which may be a sequence of them."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [step for part in component[parts] for step in _flat(part, parts)]
    return [component]


def _isolates_signs(description: dict[str, Any]) -> bool:
    """Whether a text without added tokens may be cut around what :data:`_ISOLATED` matches, and keeps its ids."""
    steps = _flat(description.get("pre_tokenizer"), "pretokenizers")
    return (
        description.get("normalizer") is None
        and [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and steps[0]["pattern"] == {"Regex": _ISOLATING}
        and steps[0]["behavior"] == "Isolated"
        and not steps[0]["invert"]
        and not steps[1]["add_prefix_space"]
    )


def _without_leading_blank(description: dict[str, Any], backend: BackendTokenizer) -> BackendTokenizer:
    """The same tokenizer, but adding no blank before a text's first word; itself where it adds none."""
    changed = False
    for step in _flat(description.get("normalizer"), "normalizers"):
        if step["type"] == "Prepend" and step["prepend"]:
            step["prepend"] = ""
            changed = True
    for step in _flat(description.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            step["prepend_scheme"] = "never"
            changed = True
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            step["add_prefix_space"] = False
            changed = True
    if not changed:
        return backend
    from tokenizers import Tokenizer as BackendTokenizer

    return BackendTokenizer.from_str(json.dumps(description))
