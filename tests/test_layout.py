"""The tests are laid out as the package is, each module by itself; what they share is in `tests.support`."""

import ast
from pathlib import Path

from tests.support.paths import PACKAGE, ROOT

TESTS = ROOT / "tests"
#: Folders that are no package's: what tests share, golden values, documents, several files about one module.
OTHERS = {"support", "golden", "docs", "transform"}
MODULES = sorted(TESTS.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Modules of tests that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "tests"}


def test_every_folder_is_that_of_a_package() -> None:
    folders = {path.parent.relative_to(TESTS) for path in MODULES}
    there = {folder for folder in folders if folder.parts and folder.parts[0] not in OTHERS}
    assert [str(folder) for folder in sorted(there) if not (PACKAGE / folder).is_dir()] == []


def test_modules_import_nothing_of_each_other_but_what_they_share() -> None:
    """Nor fixtures by their names: those are in the conftest.py of a folder above."""
    for path in MODULES:
        assert [name for name in imported(path) if not name.startswith("tests.support.")] == [], path
        assert "@pytest.fixture" not in path.read_text() or path.parent.name != "support", path
