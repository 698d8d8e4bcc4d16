"""`clip-surgery mask`: masks as the library makes them, written whole, by a SAM that is loaded once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clip_surgery_hub
from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.images.masks import rle_to_mask
from clip_surgery_hub.sam import loading
from clip_surgery_hub.sam.masks import MaskResult, masks
from tests.support.command_line import Run, files_in
from tests.support.paths import SAMPLES
from tests.support.tiny_sams import as_transformers, tiny_sam


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam")
    as_transformers(tiny_sam()).save_pretrained(folder)
    return folder


@pytest.fixture
def run(command: Run, checkpoint: Path, sam_folder: Path) -> Run:
    """Run `mask` with the random checkpoint and the random segmentation model unless others are named."""

    def run(*arguments: object):
        named = [] if "--model" in arguments else ["--model", checkpoint]
        return command("mask", *arguments, *named, *([] if "--sam" in arguments else ["--sam", sam_folder]))

    return run


@pytest.fixture
def expected(checkpoint: Path, place: Path) -> Callable[[str], MaskResult]:
    """The masks of bench, man, and both, by way of the library, the last step with the choice given."""

    def expected(choose: str) -> MaskResult:
        clip = CLIPSurgery.from_pretrained(str(checkpoint))
        explanation = clip.explain("images/a.png", ["bench", "man"], background=["grass"])
        (bench, man) = explanation.heatmaps()[0]
        return masks(
            explanation,
            as_transformers(tiny_sam()),
            choose=choose,
            points=[[*explanation.points()[0], *explanation.combined_points(["bench", "man"])]],
            heatmaps=[torch.stack([bench, man, torch.maximum(bench, man)])],
        )

    return expected


ASKED = ["--text", "bench", "--text", "man", "--text", "bench+man", "--background", "grass", "--keep-absent"]


@pytest.mark.parametrize("choose", ["score", "agreement"])
def test_masks_are_those_of_the_library(
    run: Run, place: Path, expected: Callable[[str], MaskResult], choose: str
) -> None:
    answer = run("images/a.png", *ASKED, "--choose", choose, "--out", "results")
    assert (answer.code, answer.err) == (0, "")
    names = ["mask-01-bench.png", "mask-02-man.png", "mask-03-bench-man.png"]
    assert files_in(place / "results") == {f"a/{name}" for name in ["panel.png", "result.json", *names]}
    wanted = expected(choose)
    record = json.loads((place / "results" / "a" / "result.json").read_text())
    assert [one["text"] for one in record["prompts"]] == ["bench", "man", "bench+man"]
    for one, name, mask, score, points in zip(
        record["prompts"], names, wanted.masks[0], wanted.scores[0], wanted.points[0], strict=True
    ):
        with Image.open(place / "results" / "a" / name) as image:
            assert image.mode == "1"
            assert np.array_equal(np.asarray(image), mask.numpy())
        assert torch.equal(rle_to_mask(one["mask"]), mask)
        assert one["score"] == pytest.approx(float(score), abs=1e-5)
        assert one["share"] == pytest.approx(mask.sum().item() / (40 * 60))
        rows, columns = np.nonzero(mask.numpy())
        assert one["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (one["points"], one["labels"]) == (points.xy.tolist(), points.labels.tolist())
        assert f"{one['text']} {one['share']:.0%}" in answer.out
    assert [len(one["presence"]) for one in record["prompts"]] == [1, 1, 2]
    assert Image.open(place / "results" / "a" / "panel.png").width > 500


def test_the_choice_matters(expected: Callable[[str], MaskResult]) -> None:
    """Otherwise the test above could not tell one choice from the other."""
    assert not torch.equal(expected("score").masks[0], expected("agreement").masks[0])


def test_the_segmentation_model_is_loaded_once_and_broken_images_are_left_out(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], loading.load_sam
    monkeypatch.setattr(
        loading, "load_sam", lambda *given, **named: loaded.append(given) or load(*given, **named)
    )
    (place / "images" / "a2.png").write_bytes(b"not an image")
    answer = run("images", "--text", "bench", "--keep-absent", "--json", "--out", "results")
    assert answer.code == 1 and len(answer.err.splitlines()) == 1 and "a2.png" in answer.err
    assert [one["image"] for one in json.loads(answer.out)["images"]] == [
        "images/a.png",
        "images/b.jpg",
    ]
    assert len(loaded) == 1
    assert {Path(name).parent.name for name in files_in(place / "results")} == {"a", "b"}


def test_absent_texts_get_no_mask_unless_they_are_kept(run: Run, place: Path) -> None:
    clip = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes")
    every = clip.explain(SAMPLES / "scene_1.png", ["dog", "anchor", "umbrella", "key", "bear"])
    lowest, absent = min(zip(every.presence[0].tolist(), every.texts, strict=True))
    assert lowest < clip_surgery_hub.results.explanation.PRESENT
    named = [SAMPLES / "scene_1.png", "--text", absent, "--model", "clip_vit_tiny.scenes", "--out", "results"]
    answer = run(*named)
    assert answer.code == 0 and "nothing is there" in answer.out
    assert answer.err.startswith(f"note: {absent!r} does not seem to be in the image")
    assert files_in(place / "results") == {"scene_1/panel.png", "scene_1/result.json"}
    answer = run(*named, "--keep-absent")
    assert (answer.code, answer.err) == (0, "")
    assert f"scene_1/mask-01-{absent}.png" in files_in(place / "results")


def test_earlier_masks_are_replaced(run: Run, place: Path) -> None:
    assert run("images/a.png", *ASKED, "--out", "results").code == 0
    assert run("images/a.png", "--text", "狗", "--keep-absent", "--out", "results").code == 0
    assert files_in(place / "results") == {"a/panel.png", "a/mask-01.png", "a/result.json"}


@pytest.fixture
def bad(place: Path) -> Path:
    """Segmentation models that cannot be loaded."""
    (place / "damaged.pth").write_bytes(b"not a checkpoint")
    (place / "empty").mkdir()
    return place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "bench", "--sam", "nothing.pth"], "There is no SAM nothing.pth"),
        (["--text", "bench", "--sam", "damaged.pth"], "damaged.pth is no checkpoint of segment-anything"),
        (["--text", "bench", "--sam", "empty"], "The folder empty holds no model of transformers"),
        (["--text", "bench", "--choose", "best"], "no choice 'best' among masks. Choose score or agreement"),
        (["--text", "bench+"], "missing beside a plus sign in 'bench+'"),
        (["--text", "bench+bench"], "combines a text with itself"),
        ([], "No text was given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_once_and_nothing_is_written(
    run: Run, bad: Path, arguments: list[str], message: str
) -> None:
    before = files_in(bad)
    answer = run("images", *arguments, "--out", "results")
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("error: ") and message in answer.err
    assert files_in(bad) == before and not (bad / "results").exists()


def test_a_disk_that_fills_up_leaves_no_mask(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Image.Image.save

    def full(image: Image.Image, target: object, *arguments: object, **options: object) -> None:
        if "mask-02" in str(target):
            raise OSError(28, "No space left on device")
        save(image, target, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    answer = run("images/a.png", *ASKED, "--out", "results")
    assert (answer.code, answer.out) == (2, "") and "No space left" in answer.err
    assert not (place / "results").exists()
