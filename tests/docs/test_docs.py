import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from clip_surgery_hub.cli import app
from tests.support.paths import DOCS, ROOT, SAMPLES

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(found), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_package_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|docs|benchmarks|examples)/[\w./-]+\.\w+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_python_in_the_readme_compiles_and_names_what_exists() -> None:
    import clip_surgery_hub

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        for names in re.findall(r"from clip_surgery_hub import (.+)", block):
            missing = {name.strip() for name in names.split(",")} - set(clip_surgery_hub.__all__)
            assert not missing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pizza' does not seem to be in the image")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tasks", "len(words) == 227"),
        (
            "predict",
            "(table.num_rows, status.done, status.failed, rows[3]['key']) == (6, 6, 0, 'scene_4.png')",
        ),
    ],
    ids=["tasks", "predict"],
)
def test_snippets_and_commands_of_a_page_run(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    page, names = DOCS / f"{name}.md", dict[str, Any]()
    blocks = re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "sh"}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
            continue
        for line in block.splitlines():
            command, _, code = line.partition("# exit code ")
            with pytest.raises(SystemExit) as end:
                app(shlex.split(command)[1:], prog_name="clip-surgery")
            assert int(end.value.code or 0) == int(code or 0), line
    assert eval(told, names), told


def test_every_image_of_the_tasks_is_small() -> None:
    images = list((DOCS / "images").glob("task-*.png"))
    assert images
    for image in images:
        assert image.stat().st_size <= 120_000, image.name
