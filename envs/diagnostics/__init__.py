"""Small environments that ask one thing of an algorithm each, with exact answers: see ``docs/diagnostics.md``."""

from llmgym.envs.diagnostics.episodes import Episode, play
from llmgym.envs.diagnostics.table import DIAGNOSTICS, Diagnostic

__all__ = ["DIAGNOSTICS", "Diagnostic", "Episode", "play"]
