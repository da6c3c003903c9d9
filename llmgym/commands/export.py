"""``llmgym export``: episodes as a data set for offline reinforcement learning."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmgym.commands.arguments import load, parse
from llmgym.commands.players import load_agent
from llmgym.errors import InvalidOptionError
from llmgym.keywords import EnvKeywords, parse_keywords


@dataclass(frozen=True)
class ExportOptions(EnvKeywords):
    """Play episodes and write them as a data set of Minari: in $MINARI_DATASETS_PATH, or else in ~/.minari/datasets.

    Attributes:
        path: The folder of a run or of a saved agent; or tiny-reasoner, the folder or hub name of a model.
        minari: Id of the new data set, such as mathreason/grpo-v0.
        env: Id of an environment; none: the one of the training.
        episodes: How many. Episode k begins with reset(seed=seed + k).
        seed: Of problems and sampling.
        temperature: Of the policy; top_k and top_p stay those of the training.
        num_envs: Slots that play at once.
        algorithm_name: What made the policy. None: the algorithm of a saved agent, the name of a model.
        author: Who made the data set.
        author_email: Where to write to.
        description: What it is. None: how it was made.
        code_permalink: Where the code is.
    """

    path: str
    minari: str
    env: str | None = None
    episodes: int = 1000
    seed: int = 0
    temperature: float = 1.0
    num_envs: int = 256
    algorithm_name: str | None = None
    author: str | None = None
    author_email: str | None = None
    description: str | None = None
    code_permalink: str | None = None


def run_export(arguments: Sequence[str]) -> None:
    """Play episodes and write them."""
    options = parse(ExportOptions, arguments, "export", positional="path")
    export = load("llmgym.export")
    export.check_dataset_id(options.minari)  # before a model is loaded
    if options.episodes < 1:
        raise InvalidOptionError(f"Expected --episodes >= 1, actual: {options.episodes}. Raise it.")
    env_kwargs = parse_keywords(options.env_kwargs)
    agent = load_agent(options.path, options.env, env_kwargs)
    trained = load("llmgym.agents.checkpoints").holds_agent(Path(options.path))
    about = export.About(
        algorithm_name=options.algorithm_name or (agent.algorithm if trained else options.path),
        author=options.author,
        author_email=options.author_email,
        description=options.description
        or f"{options.episodes} episodes of {options.path} in {agent.training_envs.env_id} at temperature "
        f"{options.temperature:g}, made by: {shlex.join(['llmgym', 'export', *arguments])}",
        code_permalink=options.code_permalink,
    )
    folder = export.export_minari(
        agent,
        options.minari,
        n_episodes=options.episodes,
        seed=options.seed,
        temperature=options.temperature,
        num_envs=options.num_envs,
        about=about,
        **env_kwargs,
    )
    print(f"{options.minari}: {options.episodes} episodes in {folder}")
