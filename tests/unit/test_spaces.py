import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete, Tuple, flatdim, flatten, flatten_space, unflatten
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import batch_differing_spaces, batch_space, create_shared_memory
from hypothesis import given
from hypothesis import strategies as st

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError
from llmgym.spaces import TextSpace, check_text
from llmgym.testing import SumTask, tiny_tokenizer


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_belongs_to_it(text: str) -> None:
    assert text in TextSpace()
    assert check_text(text, "x") is None


@pytest.mark.parametrize("other", [b"bytes", 3, None, ["a"], np.array("a"), "\ud800", "ok \udfff"])
def test_nothing_else_does(other: Any) -> None:
    assert other not in TextSpace()
    assert "Expected the action" in str(check_text(other, "the action"))


def test_equality_hash_and_repr_ignore_the_seed() -> None:
    assert TextSpace(seed=1) == TextSpace(seed=2, sample_length=3)
    assert hash(TextSpace()) == hash(TextSpace(seed=3))
    assert TextSpace() != Discrete(3)
    assert repr(TextSpace()) == "TextSpace()"
    assert is_space_dtype_shape_equiv(TextSpace(), TextSpace())


def test_samples_are_seeded_varied_and_in_the_space() -> None:
    first, second = TextSpace(seed=0), TextSpace(seed=0)
    samples = [first.sample() for _ in range(200)]
    assert samples == [second.sample() for _ in range(200)]
    assert all(sample in first for sample in samples)
    assert max(map(len, samples)) == 16
    text = "".join(samples)
    assert "\n" in text
    assert any("\u4e00" <= character <= "\u9fff" for character in text)
    with pytest.raises(ValueError, match="no `mask`"):
        first.sample(mask=np.ones(3))
    with pytest.raises(ValueError, match="sample_length"):
        TextSpace(sample_length=-1)


def test_json_pickle_and_flattening() -> None:
    space, texts = TextSpace(seed=0), ["", "é\n", "你好 🎉"]
    assert space.from_jsonable(space.to_jsonable(texts)) == texts
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert copy.sample() == space.sample()
    assert not space.is_np_flattenable
    assert flatten_space(space) == space
    assert unflatten(space, flatten(space, "a b")) == "a b"
    with pytest.raises(ValueError, match="any length"):
        flatdim(space)


def test_batches_are_tuples() -> None:
    batch = batch_space(TextSpace(seed=0), 3)
    assert batch == Tuple([TextSpace()] * 3)
    assert len(set(batch.sample())) > 1  # each has a generator of its own
    assert batch_differing_spaces([TextSpace(), TextSpace(sample_length=2)]) == Tuple([TextSpace()] * 2)


def _make(**options: Any) -> LanguageEnv:
    return LanguageEnv(SumTask(), tokenizer=tiny_tokenizer(), action_unit="step", max_new_tokens=6, **options)


def test_sync_vector_env_takes_it() -> None:
    envs = SyncVectorEnv([_make, _make])
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space
    observations, *_ = envs.step(("1\n", "你"))
    assert [text[-1] for text in observations] == ["\n", "你"]


def test_shared_memory_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidOptionError, match="shared_memory=False"):
        create_shared_memory(TextSpace(), 2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_async_vector_env_works_without_shared_memory() -> None:
    envs = AsyncVectorEnv([_make, _make], shared_memory=False)
    try:
        observations, _ = envs.reset(seed=[0, 1])
        alone = [_make().reset(seed=seed)[0] for seed in (0, 1)]
        assert list(observations) == alone
        observations, *_ = envs.step(("1\n", "你"))
        assert list(observations) == [alone[0] + "1\n", alone[1] + "你"]
    finally:
        envs.close()


def test_async_vector_env_refuses_text_in_shared_memory() -> None:
    with pytest.raises(InvalidOptionError, match="shared_memory=False"):
        gym.make_vec("llmgym/Copy-v0", 2, vectorization_mode="async", action_unit="step")
