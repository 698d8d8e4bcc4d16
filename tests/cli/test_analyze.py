"""`clip-surgery analyze`: the figures of both analyses, of a patch that is given or found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import attention_analysis, redundancy_analysis
from clip_surgery_hub.analysis.masks import highest_patch, read_mask
from clip_surgery_hub.images.loading import ImageError
from tests.support.command_line import Run, files_in

TEXTS = ["bench", "man"]
ASKED = ["--text", "bench", "--text", "man"]


@pytest.fixture
def run(command: Run, checkpoint: Path) -> Run:
    return lambda *arguments: command("analyze", *arguments, "--model", checkpoint)


@pytest.fixture
def clip(checkpoint: Path) -> CLIPSurgery:
    return CLIPSurgery.from_pretrained(str(checkpoint))


@pytest.fixture
def mask(place: Path) -> np.ndarray:
    """An object of a.png (60 x 40, 4 x 6 patches): two patches in the upper right corner, as `mask.png`."""
    inside = np.zeros((40, 60), dtype=bool)
    inside[:10, 40:] = True
    Image.fromarray(inside).save(place / "mask.png")
    return inside


def test_a_mask_of_several_images_is_one_line(run: Run, place: Path, mask: np.ndarray) -> None:
    answer = run("images", *ASKED, "--mask", "mask.png")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert "A mask belongs to one image, got" in answer.err


def same(found: object, wanted: object) -> bool:
    """Whether two records hold the same, numbers to 1e-5."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


def test_figures_are_those_of_the_library_at_the_highest_place(
    run: Run, clip: CLIPSurgery, place: Path
) -> None:
    answer = run("images/a.png", *ASKED, "--out", "results")
    assert (answer.code, answer.err) == (0, "")
    assert files_in(place / "results") == {"a/attention.png", "a/redundancy.png", "a/result.json"}
    record = json.loads((place / "results" / "a" / "result.json").read_text())
    similarity = clip.explain("images/a.png", TEXTS).similarity[0][0]
    row, column = divmod(int(similarity.argmax()), similarity.shape[1])
    assert record["attention"]["patch"] == {"row": row, "column": column}
    assert record["chosen"] == "the highest place of the map of 'bench'"
    assert f"row {row}, column {column} (the highest place of the map of 'bench')" in answer.out
    wanted = attention_analysis(clip, "images/a.png", patch=(row, column))
    assert same(record["attention"], wanted.to_dict())
    assert same(record["redundancy"], redundancy_analysis(clip, "images/a.png", TEXTS).to_dict())
    for name in ("attention.png", "redundancy.png"):
        assert Image.open(place / "results" / "a" / name).width > 500


def test_with_a_mask_the_patch_lies_on_the_object(
    run: Run, clip: CLIPSurgery, place: Path, mask: np.ndarray
) -> None:
    answer = run("images/a.png", *ASKED, "--mask", "mask.png", "--json")
    (record,) = json.loads(answer.out)["images"]
    similarity = clip.explain("images/a.png", TEXTS).similarity[0][0]
    column = 4 + int(similarity[0, 4:].argmax())
    assert record["attention"]["patch"] == {"row": 0, "column": column}
    assert record["chosen"] == "the highest place of the map of 'bench' on the mask"
    wanted = attention_analysis(clip, "images/a.png", patch=(0, column), mask=mask)
    assert same(record["attention"], wanted.to_dict())
    assert record["attention"]["chance"] == pytest.approx(2 / 24)
    wanted = redundancy_analysis(clip, "images/a.png", TEXTS, masks=[{"bench": mask}])
    assert same(record["redundancy"], wanted.to_dict())


def test_a_point_that_is_given_is_taken(run: Run, place: Path, mask: np.ndarray) -> None:
    answer = run("images/a.png", *ASKED, "--point", "59.5, 0", "--mask", "mask.png", "--json")
    (record,) = json.loads(answer.out)["images"]
    assert record["attention"]["patch"] == {"row": 0, "column": 5} and record["chosen"] == "given"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No text was given"),
        (["--text", "bench"], "needs two or more, got 'bench' alone. Add another --text."),
        ([*ASKED, "--point", "here"], "x and y in pixels of the image, such as 310,190; got 'here'"),
        ([*ASKED, "--point", "1,2,3"], "got '1,2,3'"),
        ([*ASKED, "--point", "60,1"], "lies outside of the image: x is 0 to 59, y is 0 to 39"),
        ([*ASKED, "--point", "nan,1"], "lies outside of the image"),
        ([*ASKED, "--point", "1,30", "--mask", "mask.png"], "lies off the mask"),
        ([*ASKED, "--mask", "nothing.png"], "There is no file nothing.png"),
        ([*ASKED, "--mask", "words.png"], "words.png is no image"),
        ([*ASKED, "--mask", "black.png"], "mask of 'bench' in image 0 covers nothing"),
        ([*ASKED, "--mask", "white.png"], "covers the whole image"),
        ([*ASKED, "--mask", "small.png"], "as large as its image"),
        ([*ASKED, "--mask", "clear.png"], "The mask clear.png has transparency"),
    ],
    ids=lambda value: " ".join(value[4:] or value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(
    run: Run, place: Path, mask: np.ndarray, arguments: list[str], message: str
) -> None:
    (place / "words.png").write_text("not an image")
    for name, mode, size, color in (
        ("black.png", "L", (60, 40), 0),
        ("white.png", "L", (60, 40), 255),
        ("small.png", "L", (40, 60), 255),
        ("clear.png", "LA", (60, 40), (0, 255)),
    ):
        Image.new(mode, size, color).save(place / name)
    before = files_in(place)
    answer = run("images/a.png", *arguments, "--out", "results")
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("error: ") and message in answer.err
    assert files_in(place) == before


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "P"])
def test_whatever_is_not_black_is_on_the_mask(tmp_path: Path, mode: str) -> None:
    """The least value above zero, in each kind of image."""
    wanted = np.array([[False, True, False], [False, False, True]])
    dtype = {"1": bool, "I;16": np.uint16}.get(mode, np.uint8)
    values = wanted.astype(dtype)
    if mode == "RGB":
        values = np.stack([0 * values, 0 * values, values], -1)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([0, 0, 0, 0, 90, 0])
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    found = read_mask(tmp_path / "mask.png")
    assert found.dtype == bool and np.array_equal(found, wanted)


def test_a_mask_with_transparency_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"mask\.png has transparency"):
        read_mask(tmp_path / "mask.png")


def test_the_highest_patch_counts_where_the_object_covers_half_of_it() -> None:
    similarity = torch.tensor([[9.0, 1.0], [2.0, 3.0]])
    assert highest_patch(similarity) == (0, 0)
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 1] = True  # a quarter of the highest patch
    assert highest_patch(similarity, mask) == (0, 0)
    mask[2:, 0] = True  # half of the lower left one
    assert highest_patch(similarity, mask) == (1, 0)
    mask[2:] = True
    assert highest_patch(similarity, mask) == (1, 1)
