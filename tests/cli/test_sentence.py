"""`clip-surgery sentence`: what the library reads in a caption, said and written whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_surgery_hub import CLIPSurgery
from tests.support.command_line import Run, files_in

CAPTION = "a dog on grass"


def test_a_sentence_is_that_of_the_library(command: Run, checkpoint: Path, place: Path) -> None:
    answer = command(
        "sentence", "images/a.png", "--caption", CAPTION, "--out", "results", "--model", checkpoint
    )
    assert (answer.code, answer.err) == (0, "")
    assert files_in(place / "results") == {"a/panel.png", "a/maps.npz", "a/result.json"}
    expected = CLIPSurgery.from_pretrained(str(checkpoint)).sentence("images/a.png", CAPTION)
    record = json.loads((place / "results" / "a" / "result.json").read_text())
    wanted = json.loads(json.dumps(expected.to_dict()))
    assert record.pop("image") == "images/a.png"
    assert record.keys() == wanted.keys()
    assert [one["text"] for one in record["words"]] == ["a", "dog", "on", "grass", expected.words[-1].text]
    assert [one["id"] for one in record["tokens"]] == [one["id"] for one in wanted["tokens"]]
    for name in ("words", "tokens"):
        scores = [one["score"] for one in record[name]]
        np.testing.assert_allclose(scores, [one["score"] for one in wanted[name]], atol=1e-6)
    by_score = sorted(range(5), key=lambda number: -record["words"][number]["score"])
    assert record["top"] == by_score[:3]
    strongest = [record["words"][number] for number in by_score[:3]]
    assert ", ".join(f"{one['text']} {one['score']:.3f}" for one in strongest) in answer.out
    with np.load(place / "results" / "a" / "maps.npz") as maps:
        np.testing.assert_allclose(maps["sentence"], expected.sentence, atol=1e-6)
        np.testing.assert_allclose(maps["similarity"], expected.word_similarity, atol=1e-6)
        np.testing.assert_allclose(maps["scores"], maps["similarity"].max((1, 2)), atol=1e-6)
        assert maps["words"].tolist() == [word.text for word in expected.words]
    assert Image.open(place / "results" / "a" / "panel.png").width > 500


def test_many_images_and_a_broken_one(command: Run, checkpoint: Path, place: Path) -> None:
    (place / "images" / "a2.png").write_bytes(b"not an image")
    answer = command("sentence", "images", "--caption", CAPTION, "--json", "--model", checkpoint)
    assert answer.code == 1 and len(answer.err.splitlines()) == 1 and "a2.png" in answer.err
    printed = json.loads(answer.out)
    assert [one["caption"] for one in printed["images"]] == [CAPTION, CAPTION]
    assert [one["image"] for one in printed["failed"]] == ["images/a2.png"]
    assert not (place / "clip-surgery-out").exists()


def test_words_that_the_bundled_model_does_not_know_are_said_once(command: Run, place: Path) -> None:
    answer = command("sentence", "images", "--caption", "a carburettor and a dog", "--json")
    assert answer.code == 0 and len(json.loads(answer.out)["images"]) == 2
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("note: ")
    assert "'carburettor'" in answer.err and "'dog'" not in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No caption was given. Write a sentence: --caption 'a dog on grass'."),
        (["--caption", "  "], "No caption was given"),
        (["--caption", "many words " * 50], "token"),
    ],
    ids=["none", "blank", "long"],
)
def test_captions_that_cannot_be_read_are_one_line(
    command: Run, checkpoint: Path, place: Path, arguments: list[str], message: str
) -> None:
    answer = command("sentence", "images", *arguments, "--out", "results", "--model", checkpoint)
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("error: ") and message in answer.err
    assert not (place / "results").exists()
