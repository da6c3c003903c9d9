"""What importing and using an environment may load."""

import os
import subprocess
import sys

HEAVY = ("torch", "transformers", "sympy", "rich", "matplotlib", "PIL", "datasets", "jinja2", "huggingface_hub", "pandas")  # fmt: skip

USE = """
import gymnasium, llmgym
for unit, action in (("token", 5), ("response", "<answer>1</answer>")):
    env = gymnasium.make("llmgym/MathReason-v0", action_unit=unit, rewards={"correctness": 1.0, "format": 0.1, "process": 0.1})
    env.reset(seed=0)
    env.step(action)
envs = gymnasium.make_vec("llmgym/MathReason-v0", num_envs=2)
envs.reset(seed=0)
envs.step([5, 5])
"""


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    code += "\nimport sys; print('|'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.strip().splitlines()[-1].split("|"))


def test_importing_llmgym_adds_nothing_heavy_to_gymnasium() -> None:
    added = loaded_after("import llmgym") - loaded_after("import gymnasium")
    assert "llmgym" in added
    assert not added & {*HEAVY, "tokenizers"}


def test_making_stepping_and_judging_load_neither_torch_nor_transformers() -> None:
    added = loaded_after(USE) - loaded_after("import gymnasium")
    assert "tokenizers" in added
    assert not added & set(HEAVY)


def test_the_module_prefix_needs_no_import() -> None:
    """In a fresh interpreter: here llmgym is long imported."""
    code = "import gymnasium; gymnasium.make('llmgym:llmgym/MathReason-v0').reset(seed=0)"
    code += "; gymnasium.make_vec('llmgym:llmgym/MathReason-v0', num_envs=2).reset(seed=0)"
    assert "llmgym" in loaded_after(code)


PLAY = """
import gymnasium, hashlib, llmgym
for env_id in ("llmgym/Copy-v0", "llmgym/MathReason-v0"):
    envs = gymnasium.make_vec(env_id, num_envs=3)
    seen = [envs.reset(seed=3)] + [envs.step([5, 6, 1]) for _ in range(6)]
    print(hashlib.sha256(repr(seen).encode()).hexdigest())
"""


def test_a_seed_means_the_same_in_any_process_and_under_any_hash_seed() -> None:
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", PLAY], capture_output=True, text=True, check=True, env=environment)
        outputs.add(done.stdout)
    assert len(outputs) == 1
