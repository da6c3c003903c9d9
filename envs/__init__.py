"""What is learned from: one environment a file. `gymnasium.make` loads the one that is asked for."""

from __future__ import annotations

import warnings

if __name__ == "envs":  # found as a folder on sys.path, and not through the package
    warnings.warn(
        "Expected the name `llmgym.envs`, actual: `envs`, which makes second copies of its classes. "
        "Write `import llmgym.envs`.",
        stacklevel=2,
    )
