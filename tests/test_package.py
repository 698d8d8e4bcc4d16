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

# The layers of the package, from the bottom up: a module imports from its own package and from layers below.
LAYERS = (
    "functional files scenes",
    "methods images hub text",
    "towers results",
    "transform sam checkpoints",
    "model",
    "factory",
    "analysis",
    "plotting",
    "prediction",
    "evaluate",
    "cli",
    "__main__",
)
# The one list of imports that run upward: results draw themselves by plotting, loaded when it is called.
DRAWN_BY_PLOTTING = {
    "results/explanation.py",
    "results/sentence.py",
    "analysis/attention_results.py",
    "analysis/redundancy_result.py",
}


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


@pytest.mark.slow
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


def imports_of(tree: ast.Module) -> set[str]:
    """What a module imports of this package: packages, and modules at the root.

    Every import counts, those inside functions and those for type checkers alone too.
    """
    found = set()
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom) and statement.module:
            parts = statement.module.split(".")
            if parts == ["clip_surgery_hub"]:
                found |= {alias.name for alias in statement.names}
            elif parts[0] == "clip_surgery_hub":
                found.add(parts[1])
        elif isinstance(statement, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in statement.names
                if alias.name.startswith("clip_surgery_hub.")
            }
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_downward(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    own = place.parts[0].removesuffix(".py")
    if own == "__init__":  # it names every home, and loads none before it is asked
        return
    layer = next((number for number, names in enumerate(LAYERS) if own in names.split()), None)
    assert layer is not None, f"{own} is in no layer: give it one, here and in docs/architecture.md"
    allowed = {own, "__version__"}.union(*(names.split() for names in LAYERS[:layer]))
    upward = imports_of(ast.parse(path.read_text())) - allowed
    assert upward == ({"plotting"} if place.as_posix() in DRAWN_BY_PLOTTING else set())


def test_no_two_modules_or_classes_of_one_name_mean_different_things() -> None:
    """Modules may share a name across packages where they do the same for theirs; these are all that do."""
    modules: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        modules.setdefault(path.stem, []).append(place)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(place)
    assert {name: places for name, places in classes.items() if len(places) > 1} == {}
    commands = {path.stem for path in (PACKAGE / "cli").glob("*.py")}  # named after what they run
    shared = {name for name, places in modules.items() if len(places) > 1} - commands - {"__init__"}
    assert shared == {
        "attention",  # analyzed, and drawn
        "data",  # the LightningDataModule of prediction, and of evaluation
        "loading",  # of images, and of SAM
        "masks",  # of objects, by SAM, and drawn
        "redundancy",  # analyzed, and drawn
        "saving",  # of explanations, and of models
    }


def test_few_entries_few_small_files_and_none_too_long() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 24
    lines = {
        path.relative_to(PACKAGE): len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    }
    datasets = Path("evaluate/datasets")
    small = [place for place, count in lines.items() if count < 60 and place.parent != datasets]
    assert len(small) <= 20, small
    # Each is one class, half of it docstrings.
    assert {str(place) for place, count in lines.items() if count > 400} <= {
        "model.py",
        "results/explanation.py",
    }


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
