"""Commands of ``llmgym`` in files of their own; :mod:`llmgym.cli` finds and runs them."""
