"""What is shipped: the wheel is complete, the import is light, and a missing extra says how to get it."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "from setuptools import build_meta; import sys; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
IN_TREE = {"agents": "llmgym/agents", "envs": "llmgym/envs"}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


def python(code: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run code in a fresh interpreter outside the source tree; fail with what it printed."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd or Path(sys.prefix), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_tree(target: Path, *, links: bool) -> Path:
    """The part of the tree that a build reads, with or without llmgym/agents and llmgym/envs."""
    clutter = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for folder in ("llmgym", "agents", "envs"):
        shutil.copytree(ROOT / folder, target / folder, symlinks=True, ignore=clutter)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, target / file)
    for name in IN_TREE:
        link = target / "llmgym" / name
        if link.is_symlink():
            link.unlink()
        if links:
            link.symlink_to(Path("..") / name, target_is_directory=True)
    return target


def build(tree: Path, what: str, out: Path) -> Path:
    out.mkdir(parents=True)
    python(BUILD, what, str(out), cwd=tree)
    return next(out.iterdir())


def expected_files() -> set[str]:
    """Every module and asset of the tree, named as it must be installed."""
    files = {f"llmgym/{p.relative_to(ROOT / 'llmgym')}" for p in (ROOT / "llmgym").rglob("*.py")}
    files = {f for f in files if not f.startswith(tuple(IN_TREE.values()))}
    for folder, installed in IN_TREE.items():
        files |= {f"{installed}/{p.relative_to(ROOT / folder)}" for p in (ROOT / folder).rglob("*.py")}
    assets = [p for p in (ROOT / "llmgym" / "assets").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return files | {str(p.relative_to(ROOT)) for p in assets} | {"llmgym/py.typed"}


def packages_on_disk() -> set[str]:
    found = {"llmgym"}
    for folder, name in {"llmgym": "llmgym", "agents": "llmgym.agents", "envs": "llmgym.envs"}.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if folder == "llmgym" and parts[:1] in (("agents",), ("envs",)):
                continue  # a tool that follows links; counted under their own folders
            found.add(".".join((name, *parts)))
    return found


def test_the_packages_list_names_every_folder():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == packages_on_disk()


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without links"])
def test_the_wheel_is_complete(tmp_path, links):
    tree = copy_tree(tmp_path / "tree", links=links)
    wheel = build(tree, "build_wheel", tmp_path / "wheel")
    check_wheel(wheel)


def test_an_installed_wheel_plays_and_loads_its_model(tmp_path):
    wheel = build(copy_tree(tmp_path / "tree", links=False), "build_wheel", tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
import llmgym
assert llmgym.__file__.startswith(sys.argv[1]), llmgym.__file__
import gymnasium
gymnasium.make("llmgym/MathReason-v0").reset(seed=0)
if importlib.util.find_spec("torch"):
    from llmgym.agents import Policy
    Policy.load("tiny-reasoner")
"""
    python(code, str(tmp_path / "installed"))


def test_the_wheel_made_from_the_sdist_is_complete(tmp_path):
    tree = copy_tree(tmp_path / "tree", links=True)
    sdist = build(tree, "build_sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:  # our own: the filters of later Pythons are not needed
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # type: ignore[assignment]
        archive.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    check_wheel(build(unpacked, "build_wheel", tmp_path / "wheel"))


def check_wheel(wheel: Path) -> None:
    assert wheel.name == "llmgym_rl-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    installed = {name for name in names if ".dist-info/" not in name}
    assert installed == expected_files()
    assert not any(name.startswith(("agents/", "envs/")) for name in names)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize("name", ["agents", "envs"])
def test_importing_a_folder_by_its_bare_name_warns(name):
    code = f"""
import sys, warnings
sys.path.insert(0, {str(ROOT)!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import {name}
assert any("llmgym.{name}" in str(w.message) for w in caught), caught
"""
    python(code)


def test_importing_llmgym_and_playing_an_episode_loads_no_heavy_package():
    code = """
import sys, gymnasium, llmgym
heavy = {"torch", "transformers", "sympy", "rich", "matplotlib", "PIL", "tyro", "jinja2", "datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
env = gymnasium.make("llmgym/MathReason-v0", action_unit="response", rewards={"correctness": 1.0, "format": 0.1})
env.reset(seed=0)
env.step("<think>1+1=2</think><answer>2</answer>")
envs = gymnasium.make_vec("llmgym/MathReason-v0", num_envs=2)
envs.reset(seed=0)
envs.step(envs.action_space.sample())
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    python(code)


# As if the packages of an extra were not installed: every finder answers that it knows nothing of them.
WITHOUT = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in sys.argv[1].split(",") else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import llmgym
from llmgym.errors import MissingExtraError
try:
    exec(sys.argv[2])
except MissingExtraError as error:
    print(error)
else:
    sys.exit("no MissingExtraError")
"""


@pytest.mark.parametrize(
    ("absent", "code", "extra"),
    [
        ("torch,transformers", "from llmgym.agents import GRPO", "agents"),
        ("torch,transformers", "import llmgym.agents; llmgym.agents.GRPO", "agents"),
        ("stable_baselines3", "import llmgym.sb3", "sb3"),
        ("tyro", "from llmgym.cli import run_play; run_play([])", "agents"),
        ("torch,transformers", "from llmgym.play import PlayOptions, play; play(PlayOptions())", "agents"),
        ("h5py", "from llmgym.export import check_dataset_id; check_dataset_id('a-v0')", "minari"),
        ("PIL", "from llmgym.rendering import render_rgb; render_rgb([])", "render"),
        (
            "datasets",
            "import gymnasium; gymnasium.make('llmgym/MathReason-v0', dataset='some/hub-name').reset(seed=0)",
            "data",
        ),
    ],
)
def test_a_missing_extra_names_the_install_line(absent, code, extra):
    assert f'pip install "llmgym-rl[{extra}]"' in python(WITHOUT, absent, code)
