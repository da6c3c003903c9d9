import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgym import tokenizers
from llmgym.errors import InvalidOptionError
from llmgym.testing import tiny_tokenizer
from llmgym.tokenizers import TINY_REASONER, Tokenizer, load_tokenizer
from llmgym.transcript import split_steps

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.text(alphabet="ab12c \n<eos>/think")


def names() -> list[Any]:
    return [tiny_tokenizer(), load_tokenizer(TINY_REASONER)]


@given(TEXTS)
def test_any_text_survives(text: str) -> None:
    for tokenizer in names():
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.data())
def test_own_decoding_is_the_librarys(data: st.DataObject) -> None:
    """Any ids, broken UTF-8 included: the table of bytes says what the library's decoder says."""
    for tokenizer in names():
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
        assert tokenizer.decode(ids) == tokenizer._backend.decode(ids, skip_special_tokens=False)


#: Where pieces meet: signs, digits, blanks, contractions, combining marks, added tokens and parts of them.
PIECES = st.lists(
    st.sampled_from(
        [*"12.,'-<>½é 你，\n\t\u0301\u3000", "  ", "pens", " cost", "don't", "'s", "<think>", "<thin", "A "]
    )
).map("".join)


@given(TEXTS | PIECES)
def test_ids_put_together_from_pieces_are_those_of_the_whole(text: str) -> None:
    tokenizer = load_tokenizer(TINY_REASONER)
    assert tokenizer.encode(text) == tokenizer._backend.encode(text, add_special_tokens=False).ids


def test_only_so_many_pieces_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_MOST_PIECES", 30)
    tokenizer = Tokenizer.from_json(load_tokenizer(TINY_REASONER)._json, eos_token="<eos>")
    for number in range(100):
        text = f"{chr(ord('a') + number % 26) * (number // 26)}: {number} pens."
        assert tokenizer.encode(text) == tokenizer._backend.encode(text, add_special_tokens=False).ids
    assert tokenizer._piece_ids is not None
    assert len(tokenizer._piece_ids) == 30


@pytest.mark.parametrize(
    ("component", "change"),
    [
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}),
    ],
)
def test_a_text_is_encoded_whole_where_its_pieces_may_hang_together(component: str, change: dict[str, Any]) -> None:
    description = json.loads(load_tokenizer(TINY_REASONER)._json) | {component: change}
    tokenizer = Tokenizer.from_json(json.dumps(description), eos_token="<eos>")
    for text in ("2  3  ", "...1", "e\u0301"):
        assert tokenizer.encode(text) == tokenizer._backend.encode(text, add_special_tokens=False).ids
    assert tokenizer._piece_ids is None


@given(TEXTS, st.sampled_from(["\n", "\n\n", "ab"]))
def test_a_text_has_the_same_ids_whole_and_step_by_step(text: str, delimiter: str) -> None:
    for tokenizer in names():
        pieces = [tokenizer.encode_steps(step, delimiter) for step in split_steps(text, delimiter)]
        whole = tokenizer.encode_steps(text, delimiter)
        assert whole == [token for piece in pieces for token in piece]
        assert tokenizer.decode(whole) == text


@pytest.mark.parametrize("substring", ["\n", "ab", "</answer>", "你", "b"])
def test_tables_agree_with_the_texts_of_tokens(substring: str) -> None:
    for tokenizer in names():
        texts = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
        containing, completing = tokenizer.ids_containing(substring), tokenizer.ids_completing(substring)
        assert containing.tolist() == [substring in text for text in texts]
        assert not np.any(containing & ~completing)
        last = tokenizer.encode(substring)[-1]  # however the text is cut, its last piece is among them
        assert completing[last]
        with pytest.raises(ValueError, match="read-only"):
            containing[0] = True


def test_the_shipped_tokenizer() -> None:
    tokenizer = load_tokenizer(TINY_REASONER)
    assert 512 <= tokenizer.vocab_size <= 1024
    for piece in ("<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>", "\n", *"0123456789"):
        assert len(tokenizer.encode(piece)) == 1
    assert len(tokenizer.encode("1234567890")) == 10
    assert tokenizer.end_token == "<eos>"
    assert tokenizer.token_text(tokenizer.end_token_id) == "<eos>"
    assert tokenizer.pad_token_id == tokenizer.encode("<pad>")[0]
    assert load_tokenizer(TINY_REASONER) is tokenizer


def test_it_is_loaded_from_folder_and_file(tmp_path: Path) -> None:
    text = tiny_tokenizer()._json
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {"eos_token": {"content": "</answer>"}, "chat_template": "{{ messages[0]['content'] }}|{{ eos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}', encoding="utf-8")
    for source in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        tokenizer = load_tokenizer(source)
        assert tokenizer.end_token == "</answer>"
        assert tokenizer.name == str(source)
        assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "hi|</answer>"


def test_the_end_token_may_come_from_other_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer()._json, encoding="utf-8")
    assert load_tokenizer(tmp_path / "tokenizer.json").end_token == "<eos>"  # a usual name
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 2]}', encoding="utf-8")
    assert load_tokenizer(tmp_path).end_token_id == 3


def test_padding_falls_back_to_the_end_token() -> None:
    text = tiny_tokenizer()._json.replace("<pad>", "<none>")
    tokenizer = Tokenizer.from_json(text, eos_token="<eos>")
    assert tokenizer.pad_token_id == tokenizer.end_token_id


def test_it_is_carried_by_pickle_and_shared_by_copies() -> None:
    tokenizer = tiny_tokenizer()
    other = pickle.loads(pickle.dumps(tokenizer))
    assert (other.name, other.vocab_size, other.end_token_id) == (tokenizer.name, tokenizer.vocab_size, 1)
    assert other.encode("déjà") == tokenizer.encode("déjà")
    assert copy.deepcopy(tokenizer) is tokenizer


@pytest.mark.parametrize("name", ["no/such/folder/here", "/nowhere", "two words", "."])
def test_a_name_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"Expected `tokenizer`.*actual: .*Check the path"):
        load_tokenizer(name)


def test_a_hub_name_offline_is_refused_with_the_mend() -> None:
    with pytest.raises(
        InvalidOptionError, match=r"nobody/nothing.*could not be fetched.*Check the name and the network"
    ):
        load_tokenizer("nobody/nothing")


def test_files_that_say_nothing_or_nonsense_are_refused(tmp_path: Path) -> None:
    text = tiny_tokenizer()._json.replace("<eos>", "<fin>")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=r"end token.*Add \"eos_token\""):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=r"config.json to be JSON, actual: line 1"):
        load_tokenizer(tmp_path)


def test_no_chat_template_is_an_error() -> None:
    with pytest.raises(InvalidOptionError, match="Expected a tokenizer with a chat template"):
        tiny_tokenizer().apply_chat_template([])


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools is not none %}{% for t in tools %}{{ t }}{% endfor %}{% endif %}{{ messages[0].content }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{%- for m in messages %}\n    {%- if m.role == 'x' %}{% continue %}{% endif %}\n{{ m | tojson }}\n{% endfor %}",
        "{{ bos_token }}{% if not documents %}{{ messages[-1]['content'].strip() }}{% endif %}{{ eos_token }}",
    ],
)
def test_a_chat_reads_as_transformers_writes_it(template: str) -> None:
    transformers = pytest.importorskip("transformers")
    messages = [{"role": "x", "content": "你 <b>"}, {"role": "user", "content": " hi "}]
    tokenizer = Tokenizer.from_json(tiny_tokenizer()._json, eos_token="<eos>", chat_template=template)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._backend, eos_token="<eos>", chat_template=template
    )
    assert tokenizer.apply_chat_template(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no system role') }}", "{{ strftime_now('%d') }}", "{% if %}"]
)
def test_a_chat_template_that_refuses_names_the_mend(template: str) -> None:
    tokenizer = Tokenizer.from_json(tiny_tokenizer()._json, eos_token="<eos>", chat_template=template)
    with pytest.raises(InvalidOptionError, match=r"chat template that takes these messages.*Change `system_prompt`"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])


def test_a_sentencepiece_style_tokenizer_continues_without_a_blank() -> None:
    """Such tokenizers put a blank before the first word of a text; a reasoning step is not the start of a text."""
    pieces = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    description = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [["▁", "a"]],
        },
    }
    tokenizer = Tokenizer.from_json(json.dumps(description), eos_token="</s>")
    for text in ("a b", "é\na\nb a", "\n", " a"):
        assert tokenizer.decode(tokenizer.encode_steps(text, "\n")) == text
    assert tokenizer.ids_containing("\n").nonzero()[0].tolist() == [pieces.index("<0x0A>")]
