"""Episodes as a Minari data set, for offline reinforcement learning: https://minari.farama.org.

A policy plays many slots of the vector environment at once. Each episode is then played again in the single
environment, which is the one that the data set names, from its seed and its tokens: what is written down is what that
environment gives, and an episode that cannot be repeated is an error.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import llmgym
from llmgym.agents.agent import Agent
from llmgym.agents.environments import TrainingEnvs
from llmgym.agents.rollouts import collect
from llmgym.agents.saving import sync
from llmgym.errors import InvalidOptionError, LLMGymError, missing_extra
from llmgym.keywords import OF_THE_PLAYER, refuse_keywords
from llmgym.tokenizers import TINY_REASONER, Tokenizer, load_tokenizer
from llmgym.vector import LanguageVectorEnv

#: Episodes that are played in one go: what is kept of a rollout is several times what is kept of an episode.
_CHUNK = 2048
#: Characters that no text in HDF5 can have: NUL ends one, and UTF-8 has no lone surrogates.
_NOT_IN_HDF5 = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class About:
    """What a data set says of itself, in Minari's terms.

    Attributes:
        algorithm_name: What made the policy.
        author: Who made it.
        author_email: Where to write to.
        description: What it is.
        code_permalink: Where the code is.
    """

    algorithm_name: str | None = None
    author: str | None = None
    author_email: str | None = None
    description: str | None = None
    code_permalink: str | None = None


@dataclass(frozen=True)
class Played:
    """What an episode can be repeated from.

    Attributes:
        seed: Of the environment's reset.
        prompt: ``(L,)``. Token ids.
        actions: ``(T,)`` int64. Tokens that the policy chose.
        rewards: ``(T,)``. What each was paid.
    """

    seed: int
    prompt: npt.NDArray[np.int64]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]


def export_minari(
    agent: Agent,
    dataset_id: str,
    *,
    n_episodes: int,
    seed: int = 0,
    temperature: float = 1.0,
    num_envs: int = 256,
    about: About | None = None,
    **env_kwargs: Any,
) -> Path:
    """Play episodes and write them as a Minari data set.

    Episode ``k`` begins with ``env.reset(seed=seed + k)``, which is the seed that Minari keeps of it. The data set is
    there when it is whole and on disk, and not before: whoever is killed leaves none.

    Args:
        agent: Who plays, in the environment that it was made with. Its random generator is seeded for this and put
            back afterwards.
        dataset_id: Minari's id, such as ``"mathreason/grpo-v0"``. It must be new.
        n_episodes: How many.
        seed: Of the problems and of the sampling.
        temperature: Of the policy.
        num_envs: Slots that play at once.
        about: What the data set says of itself.
        **env_kwargs: Keyword arguments of the environment that differ from the agent's.

    Returns:
        The folder of the data set: in ``$MINARI_DATASETS_PATH``, or else in Minari's own folder.

    Raises:
        InvalidOptionError: If an option cannot be, the data set is there already (or is when all has been played), or
            the environment is not a native one with token actions.
        LLMGymError: If an episode cannot be repeated from its seed and its tokens, or an info cannot be written.
        MissingExtraError: If Minari or h5py is missing.
    """
    folder = check_dataset_id(dataset_id)
    for name, number, least in (("n_episodes", n_episodes, 1), ("num_envs", num_envs, 1), ("seed", seed, 0)):
        if number < least:
            raise InvalidOptionError(f"Expected {name} >= {least}, actual: {number}. Raise it.")
    env = single_env(agent.training_envs, env_kwargs)
    envs = agent.training_envs.make(min(num_envs, n_episodes), **env_kwargs)
    try:
        if not isinstance(envs.unwrapped, LanguageVectorEnv):
            raise InvalidOptionError(
                "Expected a language environment with a native vector environment (the same seed poses the same "
                f"problem in both), actual: {type(envs.unwrapped).__name__}. Give it a vector_entry_point."
            )
        state = agent.policy.generator.get_state()
        try:
            with agent.policy.playing(temperature=temperature):
                agent.policy.generator.manual_seed(seed)
                played = list(_play(agent, envs, n_episodes, seed))
        finally:
            agent.policy.generator.set_state(state)
            agent.policy.forget()
        _write(folder, dataset_id, env, played, about or About())
    finally:
        envs.close()
        env.close()
    return folder


def check_dataset_id(dataset_id: str) -> Path:
    """Where a new data set will be.

    Raises:
        InvalidOptionError: If the id is none of Minari's, or the data set is there already.
        MissingExtraError: If Minari or h5py is missing.
    """
    for package in ("minari", "h5py"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "minari")
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage import get_dataset_path

    match = DATASET_ID_RE.fullmatch(dataset_id)
    # Minari takes a//b for another namespace than a/b, in the same folder.
    if match is None or match["version"] is None or "//" in dataset_id:
        raise InvalidOptionError(
            "Expected Minari's id of a data set, [namespace/]name-vN of letters, digits, - and _, with two characters "
            f"or more in the namespace (and single / inside it), actual: {dataset_id!r}. Write e.g. "
            "mathreason/grpo-v0."
        )
    folder: Path = get_dataset_path(dataset_id)
    if folder.exists():
        raise _is_there(folder, dataset_id)
    return folder


def _is_there(folder: Path, dataset_id: str) -> InvalidOptionError:
    return InvalidOptionError(
        f"Expected the id of a new data set, actual: {dataset_id!r}, which is in {str(folder)!r}. Raise its version, "
        f"or remove it: minari delete {dataset_id}"
    )


def single_env(training: TrainingEnvs, changes: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The environment that a data set names: made from plain values, so that its spec can be written down.

    The files that it reads are named by their whole paths, so that it can be made again from any folder.

    Raises:
        InvalidOptionError: If it has no id, a keyword argument is the export's own or JSON cannot hold it.
    """
    refuse_keywords(changes, OF_THE_PLAYER, "The export")
    if training.env_id is None:
        raise InvalidOptionError("Expected an environment with an id, actual: one without. Name it by --env.")
    kwargs = {name: value for name, value in {**training.env_kwargs, **changes}.items() if name not in OF_THE_PLAYER}
    if "tokenizer" in kwargs:
        kwargs["tokenizer"] = _name_of_tokenizer(kwargs["tokenizer"])
    if isinstance(kwargs.get("dataset"), (str, Path)) and Path(kwargs["dataset"]).is_file():  # and not one of the hub
        kwargs["dataset"] = str(Path(kwargs["dataset"]).resolve())
    try:
        kwargs = json.loads(json.dumps(kwargs))
    except TypeError as error:
        raise InvalidOptionError(
            f"Expected keyword arguments of the environment that JSON can hold, actual: {kwargs!r} ({error}). Pass "
            "plain values."
        ) from error
    return gym.make(training.env_id, **kwargs)


def _name_of_tokenizer(tokenizer: str | Tokenizer) -> str:
    """A name by which it is found again from anywhere."""
    loaded, shipped = load_tokenizer(tokenizer), load_tokenizer(TINY_REASONER)
    if _pieces(loaded) == _pieces(shipped):  # also where it was saved with an agent
        return TINY_REASONER
    return str(Path(loaded.name).resolve()) if Path(loaded.name).exists() else loaded.name


def _pieces(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.end_token, *map(tokenizer.token_text, range(tokenizer.vocab_size))]


def _play(agent: Agent, envs: Any, n_episodes: int, seed: int) -> Iterator[Played]:
    """The episodes in order, a chunk at a time."""
    for start in range(0, n_episodes, _CHUNK):
        count = min(_CHUNK, n_episodes - start)
        batch = collect(envs, agent.policy, n_groups=count, seed=seed + start, seed_each_problem=True)
        for row in range(count):
            ours = batch.response_mask[row]
            yield Played(
                seed + start + row, batch.prompt_of(row), batch.response_ids[row, ours], batch.rewards[row, ours]
            )


def _write(folder: Path, dataset_id: str, env: gym.Env[Any, Any], played: Sequence[Played], about: About) -> None:
    """The data set, whole and on disk, or nothing of it.

    Made in a hidden folder, which Minari does not look into, and renamed: a failure removes that folder alone.
    """
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace

    namespace = parse_dataset_id(dataset_id)[0]
    if namespace is not None:
        with suppress(ValueError):  # there already
            create_namespace(namespace)
    said = {
        name: {value} if name in ("author", "author_email") else value  # Minari keeps several
        for name, value in vars(about).items()
        if value is not None
    }
    said |= {"dataset_id": dataset_id, "minari_version": minari.__version__}
    # Made one after the other as they are written: the observations of all would be large.
    buffers = (EpisodeBuffer(id=number, **repeat(env, episode)) for number, episode in enumerate(played))
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as beside:
        draft = Path(beside) / folder.name  # a temporary folder is private, and the data set need not be
        draft.mkdir()
        storage = MinariStorage.new(draft / "data", env.observation_space, env.action_space, env.spec)
        storage.update_metadata(said | {"requirements": [f"llmgym-rl>={llmgym.__version__}"]})
        storage.update_episodes(buffers)
        for path in [*draft.rglob("*"), draft]:
            sync(path)
        try:
            draft.rename(folder)  # refused where there is something by now
        except OSError as error:
            if folder.exists():
                raise _is_there(folder, dataset_id) from error
            raise
    sync(folder.parent)


def repeat(env: gym.Env[Any, Any], episode: Played) -> dict[str, Any]:
    """Play an episode again, and keep all that the environment gives.

    Args:
        env: A language environment with token actions.
        episode: Its seed, tokens and rewards.

    Returns:
        Fields of Minari's ``EpisodeBuffer``: observations and infos of ``T + 1`` moments, and ``T`` of what is between.

    Raises:
        LLMGymError: If the prompt or a reward is another than before, or the episode does not end with the last token.
    """
    observation, info = env.reset(seed=episode.seed)
    observations, infos = [observation], [info]
    rewards: list[float] = []
    terminations: list[bool] = []
    truncations: list[bool] = []
    repeated = np.array_equal(observation["input_ids"][observation["attention_mask"] == 1], episode.prompt)
    for action in episode.actions:
        if not repeated or (terminations and (terminations[-1] or truncations[-1])):
            repeated = False
            break
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        infos.append(info)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
    if not repeated or rewards != episode.rewards.tolist() or not (terminations[-1] or truncations[-1]):
        raise LLMGymError(
            f"Expected an environment whose episodes can be repeated from seed and tokens, actual: that of seed "
            f"{episode.seed} went another way. Take all randomness of the task from its `rng`, and reward alike."
        )
    return {
        "seed": episode.seed,
        "observations": {name: np.stack([seen[name] for seen in observations]) for name in observation},
        "actions": episode.actions,
        "rewards": np.array(rewards),
        "terminations": np.array(terminations),
        "truncations": np.array(truncations),
        "infos": columns(infos),
    }


def columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Infos of several moments as columns, as Minari wants them: the same names at each moment.

    What was said at a moment stands until it is said anew: ``problem_id`` of the reset is there at every step. Before
    it is said for the first time there is nothing: ``""``, 0 or False. ``None`` says nothing, and what is never said
    has no column.

    What is neither a text, a number of 64 bits nor a mapping is written as JSON, and so is all of a column that is not
    of one kind. HDF5 holds no NUL and no lone surrogate: in a text they are written as in JSON, ``\\u0000``.

    Args:
        infos: Of each moment, ``N`` of them.

    Returns:
        Name -> ``N`` values, or further columns by name.

    Raises:
        LLMGymError: If a name cannot be one in HDF5, or JSON cannot hold a value.

    Example:
        >>> columns([{"level": 2}, {"paid": {"format": 0.5}}, {"paid": {"format": 0.0}, "stop_reason": "end_token"}])
        {'level': [2, 2, 2], 'paid': {'format': [0.0, 0.5, 0.0]}, 'stop_reason': ['', '', 'end_token']}
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for info in infos for name in info):
        if not isinstance(name, str) or name in ("", ".") or _NOT_IN_HDF5.search(name):
            raise LLMGymError(
                'Expected names in infos that HDF5 can hold (a text other than "" and ".", without NUL and lone '
                f"surrogates), actual: {name!r}. Have the environment use another name."
            )
        values = [info.get(name) for info in infos]
        if all(value is None or isinstance(value, Mapping) for value in values):
            found[name] = columns([value or {} for value in values])
        else:
            found[name] = _column(name, values)
    return {name: column for name, column in found.items() if column}


def _column(name: str, values: Sequence[Any]) -> list[Any]:
    """Texts or numbers: one for each value, of which not all are ``None``."""
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    said = [value for value in values if value is not None]
    if not (all(isinstance(value, str) for value in said) or all(map(_is_number, said))):
        values = [value if value is None else _as_json(name, value) for value in values]
    standing = type(next(value for value in values if value is not None))()
    column: list[Any] = []
    for value in values:
        standing = standing if value is None else value
        column.append(standing)
    if isinstance(standing, str):
        return [_NOT_IN_HDF5.sub(lambda found: f"\\u{ord(found[0]):04x}", text) for text in column]
    return column


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _as_json(name: str, value: Any) -> str:
    def plain(part: Any) -> Any:
        if isinstance(part, (np.generic, np.ndarray)):
            return part.tolist()
        raise TypeError(f"Object of type {type(part).__name__} is not JSON serializable")

    try:
        return json.dumps(value, ensure_ascii=False, default=plain)
    except (TypeError, ValueError) as error:
        raise LLMGymError(
            f"Expected infos that are texts, numbers, mappings or what JSON can hold, actual: {value!r} as {name!r} "
            f"({error}). Have the environment say plain values."
        ) from error
