"""torch.hub, in an environment that has the dependencies and not the package."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clip_surgery_hub.hub import MODELS
from clip_surgery_hub.model import CLIPSurgery
from tests.support.paths import ROOT, SAMPLES

IMAGE = SAMPLES / "scene_1.png"
TEXTS = json.loads((IMAGE.parent / "samples.json").read_text())[IMAGE.name]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of that environment: links to all that is installed here but the package itself."""
    place = tmp_path_factory.mktemp("clean")
    venv.create(place / "env", symlinks=True, with_pip=False)
    python = place / "env" / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if "clip_surgery_hub" not in installed.name and installed.suffix != ".pth":
            (Path(packages) / installed.name).symlink_to(installed)
    return python


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch.hub has in its cache after a download from GitHub, with its list of the trusted."""
    hub = tmp_path_factory.mktemp("torch") / "hub"
    place = hub / "OWNER_clip_surgery_hub_main"
    place.mkdir(parents=True)
    (hub / "trusted_list").write_text("OWNER_clip_surgery_hub\n")
    shutil.copy(ROOT / "hubconf.py", place)
    shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def told(python: Path, code: str, checkout: Path, *, fails: bool = False) -> Any:
    """What the code leaves in `told`; the lines before it are the same for every test."""
    begin = (
        "import json, sys\n"
        f"image, texts, checkout = {str(IMAGE)!r}, {TEXTS!r}, {str(checkout)!r}\n"
        "github = dict(skip_validation=True, verbose=False)\n"
    )
    answer = subprocess.run(
        [python, "-c", f"{begin}{code}\nprint('told', json.dumps(told))"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"TORCH_HOME": str(checkout.parents[1]), "OMP_NUM_THREADS": "1"},
        cwd=checkout.parent,
        capture_output=True,
        text=True,
    )
    assert (answer.returncode != 0) == fails, answer.stderr
    if fails:
        return answer.stderr.splitlines()[-1]
    return json.loads(answer.stdout.splitlines()[-1].removeprefix("told "))


def hubconf() -> ModuleType:
    spec = spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry_points() -> dict[str, Any]:
    module = hubconf()
    return {
        name: getattr(module, name)
        for name in dir(module)
        if callable(getattr(module, name)) and name[0] != "_"
    }


@pytest.mark.slow
def test_the_cache_of_torch_hub_loads_explains_lists_and_helps(python: Path, checkout: Path) -> None:
    """The package is not installed, nothing is downloaded, and nothing stays in sys.path."""
    found = told(
        python,
        "import torch.hub\n"
        "from importlib.util import find_spec\n"
        "assert find_spec('clip_surgery_hub') is None\n"
        "path, repo = list(sys.path), 'OWNER/clip_surgery_hub:main'\n"
        "names = torch.hub.list(repo, **github)\n"
        "helps = {name: torch.hub.help(repo, name, skip_validation=True) for name in names}\n"
        "assert 'clip_surgery_hub' not in sys.modules and 'transformers' not in sys.modules\n"
        "clip = torch.hub.load(repo, 'clip_surgery_tiny', device='cpu', **github)\n"
        "result = clip.explain(image, texts)\n"
        "told = dict(names=names, helps=helps, scores=result.scores.tolist(), path=[path, sys.path],\n"
        "    heat=result.heatmaps()[0].flatten()[::997].tolist(),\n"
        "    home=sys.modules['clip_surgery_hub'].__file__,\n"
        "    version=clip.settings().versions['clip-surgery-hub'])",
        checkout,
    )
    own = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes", device="cpu").explain(IMAGE, TEXTS)
    assert found["scores"][0] == pytest.approx(own.scores[0].tolist(), abs=1e-6)
    assert found["heat"] == pytest.approx(own.heatmaps()[0].flatten()[::997].tolist(), abs=1e-5)
    before, after = found["path"]
    assert [
        place for place in after if place in before
    ] == before  # some versions of torch add a folder of theirs
    assert not [place for place in after if str(checkout) in place]
    assert found["version"] == "not installed"
    assert found["home"] == str(checkout / "src" / "clip_surgery_hub" / "__init__.py")
    assert set(found["names"]) == set(entry_points())
    assert len(found["names"]) >= 12 and {"clip_surgery", "clip_surgery_vit_b16"} <= set(found["names"])
    assert all("Args:" in text for text in found["helps"].values())
    assert 'method: how the vision tower is read: "clip_surgery", "gem"' in found["helps"]["clip_surgery"]
    assert "`clip_vit_base_patch16.openai`" in found["helps"]["clip_surgery_vit_b16"]


@pytest.mark.slow
def test_the_dependencies_are_those_that_the_package_imports(python: Path, checkout: Path) -> None:
    """All that the package asks for while it loads, explains, saves and builds around timm; and no more."""
    used = told(
        python,
        "import builtins, torch.hub\n"
        "used, real = set(), builtins.__import__\n"
        "def noted(name, globals=None, locals=None, fromlist=(), level=0):\n"
        "    if level == 0 and (globals or {}).get('__name__', '').startswith('clip_surgery_hub'):\n"
        "        used.add(name.partition('.')[0])\n"
        "    return real(name, globals, locals, fromlist, level)\n"
        "builtins.__import__ = noted\n"
        "clip = torch.hub.load(checkout, 'clip_surgery_tiny', source='local', method='none')\n"
        "result = clip.explain(image, texts)\n"
        "result.points(), result.segment(), result.scores, result.save('saved')\n"
        "torch.hub.load(checkout, 'clip_surgery_rn50', source='local', pretrained=False)\n"
        "told = sorted(used - set(sys.stdlib_module_names) - {'clip_surgery_hub'})",
        checkout,
    )
    assert set(used) <= set(hubconf().dependencies)
    assert set(hubconf().dependencies) - set(used) <= {"huggingface_hub"}  # asked only for what is on the hub


@pytest.mark.slow
def test_a_folder_is_a_source_with_every_option(python: Path, checkout: Path) -> None:
    found = told(
        python,
        "import torch.hub\n"
        "load = lambda *names, **options: torch.hub.load(checkout, *names, source='local', **options)\n"
        "raw = load('clip_surgery', 'clip_vit_tiny.scenes', method='none')\n"
        "half = load('clip_surgery_tiny', depth=3, dtype=torch.bfloat16)\n"
        "load('clip_surgery_tiny').save_pretrained('shared')\n"
        "again = load('clip_surgery', 'shared', depth=2)\n"
        "random = load('clip_surgery_tiny', pretrained=False, depth=1)\n"
        "told = [[one.method, one.depth, str(one.dtype)] for one in (raw, half, again, random)]",
        checkout,
    )
    full = "torch.float32"
    wanted = [["none", 0, full], ["clip_surgery", 3, "torch.bfloat16"], ["clip_surgery", 2, full]]
    assert found == [*wanted, ["clip_surgery", 1, full]]


@pytest.mark.slow
def test_a_package_that_is_imported_is_kept_and_another_version_is_refused(
    python: Path, checkout: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "installed", ignore=shutil.ignore_patterns("__pycache__"))
    installed = f"sys.path.append({str(tmp_path / 'installed')!r})\n"
    ask = (
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        "spec = spec_from_file_location('hubconf', checkout + '/hubconf.py')\n"
        "hubconf = module_from_spec(spec)\n"
        "spec.loader.exec_module(hubconf)\n"
        "package = hubconf._package()\n"
        "assert package is sys.modules['clip_surgery_hub'] and package is hubconf._package()\n"
        "told = package.create_model.__code__.co_filename, package.__file__"
    )
    of_checkout, of_installed = (
        [str(place / "clip_surgery_hub" / name) for name in ("factory.py", "__init__.py")]
        for place in (checkout / "src", tmp_path / "installed")
    )
    # Installed, but not imported: the checkout is what was asked for.
    assert told(python, installed + ask, checkout) == of_checkout
    # Imported, of the same version: its classes are in use.
    same = "import clip_surgery_hub\n"
    assert told(python, installed + same + ask, checkout) == of_installed
    # Imported, of another version.
    file = tmp_path / "installed" / "clip_surgery_hub" / "__init__.py"
    file.write_text(re.sub('__version__ = ".+"', '__version__ = "0.0.7"', file.read_text()))
    refusal = told(python, installed + same + ask, checkout, fails=True)
    assert refusal.startswith(f"RuntimeError: clip_surgery_hub 0.0.7 of {tmp_path}")
    assert str(checkout) in refusal and "call torch.hub.load before that import, or use" in refusal
    # Installed in that version, but not imported.
    assert told(python, installed + ask, checkout) == of_checkout


def test_an_import_that_fails_leaves_no_half_of_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = hubconf()
    (tmp_path / "__init__.py").write_text("raise MemoryError")
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    monkeypatch.delitem(sys.modules, "clip_surgery_hub")
    before = list(sys.path)
    with pytest.raises(MemoryError):
        module._package()
    assert "clip_surgery_hub" not in sys.modules and sys.path == before


@pytest.mark.parametrize("name", sorted(set(entry_points()) - {"clip_surgery"}))
def test_every_entry_point_is_of_a_registered_model_and_says_which(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    function = entry_points()[name]
    monkeypatch.setitem(
        function.__globals__, "clip_surgery", lambda *names, **options: asked.append((*names, options))
    )
    function(depth=2)
    [(registered, options)] = asked
    assert registered in MODELS and options == {"depth": 2}
    text = inspect.getdoc(function) or ""
    assert f"`{registered}`" in text
    entry = MODELS[registered]
    for pixels in re.findall(r"at (\d+) px", text):
        assert int(pixels) == entry.native_size
    for patch in re.findall(r"ViT-[BLH]/(\d+)", text):
        assert int(patch) == entry.patch
