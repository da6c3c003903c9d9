"""``python -m llmgym`` is the command ``llmgym``."""

from __future__ import annotations

from llmgym.cli import main

if __name__ == "__main__":
    main()
