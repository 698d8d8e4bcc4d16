import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import clip_surgery_hub
from tests.support.paths import PACKAGE, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# The floors of the house, from the cellar up: a module imports from floors below its own.
FLOORS = (
    "functional methods hub images settings storage embedding_cache known_words labels arguments scenes "
    "explanation_fields segmentation words",
    "runs sources towers text windows checkpoints explanation cells outputs records",
    "transform encoding prompts sam_backends plot plot_labels model_card",
    "question sentence sam sam_checkpoint plot_tasks plot_sentence sharing",
    "model",
    "analysis lightning",
    "evaluate",
    "cli",
)


def loaded_after(code: str, *modules: str) -> set[str]:
    """Which of the modules a fresh interpreter has loaded after running the code."""
    code = f"{code}\nimport sys; print('\\n' + ' '.join(m for m in {modules!r} if m in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


def test_every_public_name_is_there_and_its_home_is_right() -> None:
    assert set(clip_surgery_hub.__all__) <= set(dir(clip_surgery_hub))
    for name in clip_surgery_hub.__all__:
        value = getattr(clip_surgery_hub, name)
        home = clip_surgery_hub._HOME.get(name)
        if home and hasattr(value, "__module__"):
            assert value.__module__ == f"clip_surgery_hub.{home}"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        clip_surgery_hub.no_such_name  # noqa: B018


def test_type_checkers_see_the_same_names_as_the_interpreter() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING":
            for line in statement.body:
                assert isinstance(line, ast.ImportFrom)
                seen |= {alias.asname: line.module for alias in line.names}
    homes = {name: f"clip_surgery_hub.{home}" for name, home in clip_surgery_hub._HOME.items()}
    assert seen == homes | {"functional": "clip_surgery_hub"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "transformers", "timm", "lightning", "matplotlib", "segment_anything")
    heavy += ("pyarrow", "datasets", "webdataset")
    assert loaded_after("import clip_surgery_hub", *heavy, "typer", "rich") == set()


def test_heavy_extras_are_loaded_where_they_are_used() -> None:
    names = ", ".join(name for name in clip_surgery_hub.__all__ if name != "__version__")
    heavy = ("matplotlib", "lightning", "segment_anything", "timm", "pandas", "scipy", "datasets", "pyarrow")
    assert loaded_after(f"from clip_surgery_hub import {names}", "torch", *heavy) == {"torch"}


def test_help_is_answered_without_torch() -> None:
    code = (
        "import sys; from clip_surgery_hub.cli import main\n"
        "sys.argv = ['clip-surgery', '--help']\n"
        "try: main()\n"
        "except SystemExit as leave: assert not leave.code"
    )
    assert loaded_after(code, "typer", "torch", "numpy", "transformers", "matplotlib") == {"typer"}


def test_the_version_is_said_once() -> None:
    assert version("clip-surgery-hub") == clip_surgery_hub.__version__
    assert f"version: {clip_surgery_hub.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{clip_surgery_hub.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def imports_at_load(tree: ast.Module) -> set[str]:
    """The rooms of this package that a module imports when it is loaded itself."""
    found = set()
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            parts = statement.module.split(".")
            if parts == ["clip_surgery_hub"]:
                found |= {alias.name for alias in statement.names}
            elif parts[0] == "clip_surgery_hub":
                found.add(parts[1])
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_downward(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert imports_at_load(ast.parse(path.read_text())) == set()
        return
    floor = next((number for number, rooms in enumerate(FLOORS) if room in rooms.split()), None)
    assert floor is not None, f"{room} is on no floor: give it one, here and in docs/architecture.md"
    below = {room, "__version__"}.union(*(rooms.split() for rooms in FLOORS[:floor]))
    assert imports_at_load(ast.parse(path.read_text())) <= below


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """``["torch>=2.4"]`` -> ``{"torch": "2.4"}``; requirements without a lower bound are an error.

    What an extra of this package stands for is looked up.
    """
    found = {}
    for requirement in requirements:
        if extra := re.fullmatch(r"clip-surgery-hub\[(\w+)\]", requirement):
            found |= lower_bounds(PROJECT["optional-dependencies"][extra[1]])
            continue
        name, bound = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement).groups()
        found[name] = bound
    return found


def test_the_oldest_dependencies_that_are_tried_are_the_oldest_allowed() -> None:
    allowed = lower_bounds([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    tried = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert tried == allowed


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
