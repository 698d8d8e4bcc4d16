"""CONTRIBUTING's promise: a method, a family, a data set and a command are added where it says, only there.

Each test adds one to a copy of the package as CONTRIBUTING describes it, and uses it in a fresh process.
"""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.support.paths import ASSETS, PACKAGE

METHOD = '''

def mean_of_all(value: Tensor) -> Tensor:
    """Every token the mean of all values."""
    return value.mean(-2, keepdim=True).expand_as(value)


register_method(
    Method(name="mean_of_all", mix=mean_of_all, default_depth=1, residual=False)
)
'''

USE_METHOD = """
from clip_surgery_hub import create_model
from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.scenes import World, draw_scene

assert "mean_of_all" in METHODS
clip = create_model("clip_vit_tiny.scenes", method="mean_of_all")
tokens = clip.encode(draw_scene(0, World(size=(80, 80))).image).tokens[0]
assert (tokens[1:] - tokens[1]).abs().max() < 1e-5, "all patches are one mean"
assert (tokens[0] - tokens[1]).abs().max() > 1e-3, "CLS is that of the original path"
"""

FAMILY = '''"""Towers of one linear layer, which surgery doubles."""

from dataclasses import dataclass

from torch import cat, nn

from clip_surgery_hub.towers.tower import Tower, unit_tokens

DESCRIPTION = "OneLayer of nobody"


class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, stride=8)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])


@dataclass(frozen=True, eq=False)
class OneLayerTower(Tower):
    embedding_width = 4

    def apply(self, surgery, rollback):
        rollback.callback(vars(self.encoder).pop, "surgery", None)
        vars(self.encoder)["surgery"] = surgery

    def restore(self):
        del self.encoder.surgery

    def encode(self, pixel_values, *, interpolation="bilinear"):
        pixel_values, _ = self.prepared(pixel_values, interpolation)
        patches = self.vision.patches(pixel_values).flatten(2).mT
        new = patches if self.surgery is None else self.blocks[0](patches)
        return unit_tokens(cat([patches.mean(1, keepdim=True), new], 1))


def find_towers(model):
    return {
        path: OneLayerTower("OneLayer", module, module, module.blocks, 8, 16)
        for path, module in model.named_modules()
        if isinstance(module, OneLayer)
    }


def refusal(module):
    return None


def surgery_parts(name):
    return None
'''

USE_FAMILY = """
import torch
from clip_surgery_hub import apply_surgery, remove_surgery
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.towers.families.one_layer import OneLayer

model, pixels = OneLayer(), torch.rand(2, 3, 16, 24)
before = find_tower(model).encode(pixels)
apply_surgery(model)
after = find_tower(model).encode(pixels)
assert after.shape == (2, 7, 4) and torch.equal(after[:, 0], before[:, 0])
assert not torch.equal(after[:, 1:], before[:, 1:])
remove_surgery(model)
assert torch.equal(find_tower(model).encode(pixels), before)
try:
    find_tower(torch.nn.Linear(1, 1))
except TypeError as error:
    assert "OneLayer of nobody" in str(error)
"""

DATA_SET = '''"""Two gray images, one of each class."""

import numpy as np
from PIL import Image

from clip_surgery_hub.evaluate.datasets.dataset import AnnotatedImage, ClassSet, DataSet

CLASSES = ClassSet(names=("dark", "light"), synonyms=(("night",), ("day",)), background=None, source="here")


class Grays(DataSet):
    def names(self):
        return ("dark", "light")

    def sample(self, index):
        image = Image.new("RGB", (80, 80), (80 + 90 * index,) * 3)
        segmentation = np.full((80, 80), index, np.int16)
        return AnnotatedImage(
            name=self.names()[index], image=image, segmentation=segmentation, labels=np.arange(2) == index
        )


def open_grays(entry, path, split):
    return Grays(entry, CLASSES, split)
'''

DATA_SET_ROW = """    DatasetEntry(
        key="grays",
        title="Grays",
        tasks=_MASKS,
        classes=2,
        splits=("all",),
        page="",
        layout="nothing: two images are made",
        reader=open_grays,
    ),
"""

COMMAND = '''"""``clip-surgery sizes``: how large images are."""

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images
from clip_surgery_hub.cli.reporting import errors_in_one_line


def sizes(images: options.Images) -> None:
    """Print the size of each image."""
    with errors_in_one_line():
        for path in find_images(images):
            from clip_surgery_hub.images.loading import load_image

            typer.echo(load_image(path).size)
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's code, with the assets of this one."""
    copy = tmp_path / PACKAGE.name
    copytree(PACKAGE, copy, ignore=ignore_patterns("assets", "__pycache__"))
    (copy / "assets").symlink_to(ASSETS, target_is_directory=True)
    return copy


def run(package: Path, *arguments: str) -> str:
    """What a fresh Python prints that finds this package before any other."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        cwd=package.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def insert(file: Path, before: str, text: str) -> None:
    """Put text before the only place of `file` that has `before`."""
    code = file.read_text()
    assert code.count(before) == 1, f"{before!r} stands {code.count(before)} times in {file.name}"
    file.write_text(code.replace(before, text + before))


@pytest.mark.slow
def test_a_method_touches_one_file(package: Path) -> None:
    mixing = package / "methods" / "mixing.py"
    mixing.write_text(mixing.read_text() + METHOD)
    run(package, "-c", USE_METHOD)


@pytest.mark.slow
def test_a_family_touches_one_file(package: Path) -> None:
    (package / "towers" / "families" / "one_layer.py").write_text(FAMILY)
    run(package, "-c", USE_FAMILY)


@pytest.mark.slow
def test_a_data_set_touches_one_file_and_one_row(package: Path) -> None:
    folder = package / "evaluate" / "datasets"
    (folder / "grays.py").write_text(DATA_SET)
    reader = "from clip_surgery_hub.evaluate.datasets.imagenet_s import"
    insert(folder / "catalog.py", reader, "from clip_surgery_hub.evaluate.datasets.grays import open_grays\n")
    insert(folder / "catalog.py", '    DatasetEntry(\n        key="scenes"', DATA_SET_ROW)
    out = package.parent / "out"
    run(package, "-m", PACKAGE.name, "evaluate", "grays", "--task", "recognize", "--out", str(out))
    assert (out / "results.json").is_file()


@pytest.mark.slow
def test_a_command_touches_one_file_and_one_registration(package: Path) -> None:
    (package / "cli" / "sizes.py").write_text(COMMAND)
    commands = package / "cli" / "__init__.py"
    insert(commands, "\napp = typer.Typer(", "from clip_surgery_hub.cli.sizes import sizes\n")
    insert(commands, "    *(explain, points,", "    sizes,\n")
    image = next((ASSETS / "samples").glob("*.png"))
    assert "(" in run(package, "-m", PACKAGE.name, "sizes", str(image))
    assert "sizes" in run(package, "-m", PACKAGE.name, "--help")
