"""The commands for single tasks: what they write can be read back and agrees with the library."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clip_surgery_hub
from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.images.masks import rle_to_mask
from clip_surgery_hub.sam import loading
from tests.support.command_line import Run, files_in
from tests.support.paths import SAMPLES
from tests.support.tiny_sams import as_transformers, tiny_sam

ASKED = ["--text", "bench", "--text", "man"]


@pytest.fixture
def expected(checkpoint: Path, place: Path):
    clip = CLIPSurgery.from_pretrained(str(checkpoint))
    return clip.explain("images/a.png", ["bench", "man"], background=["grass"])


def test_points_are_those_of_the_library(command: Run, checkpoint: Path, place: Path, expected) -> None:
    options = [*ASKED, "--text", "bench+man", "--background", "grass", "--keep-absent"]
    answer = command("points", "images/a.png", *options, "--out", "results", "--model", checkpoint)
    assert (answer.code, answer.err) == (0, "")
    assert files_in(place / "results") == {"a/panel.png", "a/result.json"}
    prompts = json.loads((place / "results" / "a" / "result.json").read_text())["prompts"]
    assert [prompt["text"] for prompt in prompts] == ["bench", "man", "bench+man"]
    for prompt, points in zip(prompts, [*expected.points()[0], *expected.combined_points()], strict=True):
        on = [xy for xy, label in zip(prompt["points"], prompt["labels"], strict=True) if label]
        assert sorted(on) == sorted(points.xy[points.labels == 1].tolist())
        off = [xy for xy, label in zip(prompt["points"], prompt["labels"], strict=True) if not label]
        assert sorted(off) == sorted(points.xy[points.labels == 0].tolist())
    assert prompts[2]["presence"] == pytest.approx(expected.presence[0].tolist(), abs=1e-6)


def test_absent_texts_are_left_out_and_named(command: Run, place: Path) -> None:
    name, shown = next(iter(json.loads((SAMPLES / "samples.json").read_text()).items()))
    clip = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes")
    every = clip.explain(SAMPLES / name, ["dog", "anchor", "umbrella", "key", *shown])
    ranked = sorted(zip(every.presence[0].tolist(), every.texts, strict=True))
    (lowest, absent), (highest, there) = ranked[0], ranked[-1]
    assert lowest < clip_surgery_hub.results.explanation.PRESENT <= highest
    answer = command("points", SAMPLES / name, "--text", absent, "--text", f"{there}+{absent}", "--json")
    assert answer.code == 0
    (prompt,) = json.loads(answer.out)["images"][0]["prompts"]
    assert prompt["text"] == there and prompt["presence"] == pytest.approx([highest], abs=0.01)
    assert answer.err.count(f"note: {absent!r} does not seem to be in the image") >= 1
    assert "keep" in answer.err


@pytest.mark.parametrize(
    ("text", "message"),
    [("dog+", "missing beside a plus sign in 'dog+'"), ("dog+dog", "'dog+dog' combines a text with itself")],
)
def test_wrong_combinations_are_one_line(command: Run, place: Path, text: str, message: str) -> None:
    answer = command("points", "images/a.png", "--text", text)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert message in answer.err and not (place / "clip-surgery-out").exists()


def test_labels_are_the_best_of_the_texts(command: Run, checkpoint: Path, place: Path, expected) -> None:
    options = [*ASKED, "--background", "grass", "--model", checkpoint, "--json"]
    answer = command("label", "images/a.png", *options, "--top-k", "1")
    (label,) = json.loads(answer.out)["images"][0]["labels"]
    (best,) = expected.labels(top_k=1)[0]
    assert (label["text"], label["score"]) == (best.text, pytest.approx(best.score, abs=1e-6))
    answer = command("label", "images/a.png", *options, "--threshold", "99")
    assert json.loads(answer.out)["images"][0]["labels"] == []


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_a_threshold_that_no_score_reaches_is_one_line(command: Run, place: Path, threshold: str) -> None:
    answer = command("label", "images/a.png", *ASKED, "--threshold", threshold)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert f"got {threshold}" in answer.err


@pytest.mark.parametrize("name", ["explain", "points", "mask", "label", "segment"])
@pytest.mark.parametrize(
    ("background", "message"),
    [
        (["grass", " man "], "'man' was given twice, as text and as background"),
        (["grass", "grass"], "background text 'grass' was given twice"),
        (["grass", " "], "A background text is empty"),
    ],
)
def test_wrong_backgrounds_are_one_line(
    command: Run, place: Path, name: str, background: list[str], message: str
) -> None:
    options = [option for text in background for option in ("--background", text)]
    answer = command(name, "images/a.png", *ASKED, *options)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert message in answer.err and not (place / "clip-surgery-out").exists()


def test_every_command_has_a_folder_of_its_own(command: Run, checkpoint: Path, place: Path) -> None:
    for name in ("explain", "label"):
        assert command(name, "images/a.png", *ASKED, "--model", checkpoint).code == 0
    found = {Path(file).parts[0] for file in files_in(place / "clip-surgery-out")}
    assert found == {"explain", "label"}


def test_one_text_alone_segments_nothing(command: Run, place: Path) -> None:
    answer = command("segment", "images/a.png", "--text", "bench")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert "'bench' alone would get every pixel" in answer.err and "--background" in answer.err


@pytest.mark.parametrize("threshold", [(), ("--threshold", "99")])
def test_labels_are_drawn_too(
    command: Run, checkpoint: Path, place: Path, threshold: tuple[str, ...]
) -> None:
    options = [*ASKED, "--background", "grass", "--model", checkpoint, "--out", "results", *threshold]
    answer = command("label", "images/a.png", *options)
    assert (answer.code, answer.err) == (0, "")
    assert files_in(place / "results") == {"a/panel.png", "a/result.json"}
    written = json.loads((place / "results" / "a" / "result.json").read_text())
    assert len(written["labels"]) == (0 if threshold else 2)
    with Image.open(place / "results" / "a" / "panel.png") as panel:
        assert panel.width > (200 if threshold else 800)


def test_segments_are_written_as_numbers_and_as_run_lengths(
    command: Run,
    checkpoint: Path,
    place: Path,
    expected,
) -> None:
    options = [*ASKED, "--background", "grass", "--features", "surgery", "--model", checkpoint]
    answer = command("segment", "images/a.png", *options, "--out", "results")
    assert (answer.code, answer.err) == (0, "")
    (wanted,) = expected.segment("surgery")
    with Image.open(place / "results" / "a" / "segments.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), wanted.numpy())
    segments = json.loads((place / "results" / "a" / "result.json").read_text())["segments"]
    assert [one["text"] for one in segments] == ["bench", "man", "grass"]
    for number, one in enumerate(segments):
        assert torch.equal(rle_to_mask(one["mask"]), wanted == number)
        assert one["share"] == pytest.approx(float((wanted == number).float().mean()))
    assert Image.open(place / "results" / "a" / "panel.png").width > 500


def test_wrong_features_are_one_line(command: Run, place: Path) -> None:
    answer = command("segment", "images/a.png", *ASKED, "--features", "both")
    assert answer.code == 2 and "no features 'both'. Choose plain or surgery." in answer.err


@pytest.mark.parametrize("name", ["points", "label", "segment", "mask", "sentence", "analyze"])
def test_the_options_that_all_commands_share_reach_the_model(
    command: Run, checkpoint: Path, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_sam", lambda *given, **named: as_transformers(tiny_sam()))
    asked = ["--caption", "a bench"] if name == "sentence" else ASKED
    options = ["--model", checkpoint, "--method", "clip_surgery", "--depth", "1", "--size", "64"]
    options += ["--device", "cpu", "--dtype", "float32"]
    answer = command(name, "images/a.png", *asked, *options, "--json")
    assert answer.code == 0
    (image,) = json.loads(answer.out)["images"]
    found = image["attention"] if name == "analyze" else image
    assert (found["settings"]["model"], found["settings"]["depth"]) == (str(checkpoint), 1)
    assert (found["settings"]["size"], found["grid"]) == (64, [8, 12])
    answer = command(name, "images/a.png", *asked, *options[:-1], "int8")
    assert (answer.code, answer.out) == (2, "") and "float32, bfloat16, float16" in answer.err
