"""How many frames and files of the package stand between a call and its equation."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import clip_surgery_hub
from clip_surgery_hub import CLIPSurgery, functional
from clip_surgery_hub.methods import METHODS

PACKAGE = str(Path(clip_surgery_hub.__file__).parent)
COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


BEGIN = ("/model.py", "explain")


def walks_to(name: str, run: Callable[[], object]) -> list[list[tuple[str, str]]]:
    """File and function of each frame of the package from `BEGIN` to each call of the function `name`."""
    found = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_name != name:
            return
        walk = []
        current: FrameType | None = frame
        while current is not None:
            code = current.f_code
            if code.co_filename.startswith(PACKAGE) and code.co_name not in COMPREHENSIONS:
                walk.append((code.co_filename.removeprefix(PACKAGE), code.co_name))
                if walk[-1] == BEGIN:
                    found.append(walk[::-1])
                    return
            current = current.f_back

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("method", ["clip_surgery", "sclip", "naclip"])
def test_from_explain_to_the_mixing_function(method: str) -> None:
    clip = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes", method=method, device="cpu")
    sample = Path(PACKAGE) / "assets" / "samples" / "scene_1.png"
    mix = METHODS[method].mix
    assert mix is not None
    for size in (None, 112):  # the native grid, and another one
        walks = walks_to(mix.__name__, partial(clip.explain, sample, ["fish", "dog"], size=size))
        assert len(walks) == clip.depth
        for walk in walks:
            assert len(walk) <= 8, walk
            assert len({file for file, _ in walk}) <= 5, walk


def test_from_explain_to_feature_surgery() -> None:
    clip = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes", device="cpu")
    sample = Path(PACKAGE) / "assets" / "samples" / "scene_1.png"
    name = functional.feature_surgery.__name__
    (walk,) = walks_to(name, partial(clip.explain, sample, ["fish", "dog"]))
    assert [file for file, _ in walk] == ["/model.py", "/results/query.py", "/functional/surgery.py"]
