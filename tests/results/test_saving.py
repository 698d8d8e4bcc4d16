"""Saving is all or nothing, loading gives back what was saved, and what is damaged says so."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from clip_surgery_hub.results.explanation import Explanation, Settings


def explanation_of(images: int, *, seed: int = 0) -> Explanation:
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randn(2, images, 3, 4, 5, generator=generator)  # tensors that share memory, as batches do
    pixels = np.random.default_rng(seed).integers(0, 256, (images, 20, 25, 3), dtype=np.uint8)
    return Explanation(
        images=tuple(pixels),
        sizes=((20, 25),) * images,
        texts=("bench", "Bänke und 狗"),
        background=("grass",),
        surgery_similarity=tuple(batch[0]),
        plain_similarity=tuple(batch[1]),
        scores=torch.randn(images, 2, generator=generator),
        plain_scores=torch.randn(images, 2, generator=generator),
        settings=Settings(
            model="m", method="none", templates=("a {}", "the {}"), size=64, window=32, stride=16
        ),
        presence=None if images == 1 else torch.rand(images, 2, generator=generator),
    )


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("images", [0, 1, 3])
def test_what_is_loaded_equals_what_was_saved(tmp_path: Path, images: int) -> None:
    explanation = explanation_of(images)
    explanation.save(tmp_path / "deep" / "result")
    assert Explanation.load(tmp_path / "deep" / "result") == explanation
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result"]


def test_the_settings_and_versions_come_back(tmp_path: Path) -> None:
    explanation_of(1).save(str(tmp_path / "result"))
    loaded = Explanation.load(str(tmp_path / "result")).settings
    assert loaded == explanation_of(1).settings
    assert loaded.templates == ("a {}", "the {}") and loaded.versions["torch"]


def test_an_earlier_explanation_is_replaced_whole(tmp_path: Path) -> None:
    explanation_of(3).save(tmp_path / "result")
    explanation_of(1, seed=1).save(tmp_path / "result")
    assert Explanation.load(tmp_path / "result") == explanation_of(1, seed=1)
    assert len(everything_in(tmp_path / "result")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    explanation_of(1).save(tmp_path / "result")
    assert Explanation.load(tmp_path / "result") == explanation_of(1)


@pytest.mark.parametrize("extra", ["notes.txt", "explanation/notes.txt", "explanation/images/holiday.jpg"])
def test_other_peoples_files_are_refused_and_left_alone(tmp_path: Path, extra: str) -> None:
    folder = tmp_path / "explanation" if "/" in extra else tmp_path
    if "/" in extra:
        explanation_of(1).save(folder)
    (tmp_path / extra).write_text("mine")
    before = everything_in(tmp_path)
    with pytest.raises(FileExistsError, match="holds other files"):
        explanation_of(2).save(folder)
    assert everything_in(tmp_path) == before


def test_overwrite_replaces_whatever_is_there(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "notes.txt").write_text("mine")
    explanation_of(1).save(tmp_path / "result", overwrite=True)
    assert Explanation.load(tmp_path / "result") == explanation_of(1)
    assert not (tmp_path / "result" / "notes.txt").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "result").write_text("a file")
    with pytest.raises(FileExistsError, match="is a file where a folder was expected"):
        explanation_of(1).save(tmp_path / "result", overwrite=True)
    with pytest.raises(OSError, match="result cannot be written to"):
        explanation_of(1).save(tmp_path / "result" / "inside")
    assert everything_in(tmp_path) == {"result": b"a file"}


@pytest.mark.parametrize("earlier", [True, False])
def test_a_save_that_fails_half_way_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    if earlier:
        explanation_of(2).save(tmp_path / "a" / "result")
    before = everything_in(tmp_path)

    def disk_full(tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        explanation_of(1).save(tmp_path / "a" / "result")
    assert everything_in(tmp_path) == before
    assert (tmp_path / "a").exists() == earlier


def test_a_rename_that_fails_brings_the_earlier_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explanation_of(2).save(tmp_path / "result")
    rename, calls = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="gone"):
        explanation_of(1).save(tmp_path / "result")
    assert Explanation.load(tmp_path / "result") == explanation_of(2)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def _change_record(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    (folder / "explanation.json").write_text(json.dumps(record | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
        (lambda folder: (folder / "images" / "000001.png").unlink(), "000001.png is missing"),
        (
            lambda folder: (folder / "tensors.safetensors").write_bytes(
                (folder / "tensors.safetensors").read_bytes()[:-1]
            ),
            "tensors.safetensors is not what was saved",
        ),
        (
            lambda folder: shutil.copy(folder / "images" / "000000.png", folder / "images" / "000001.png"),
            "000001.png is not what was saved",
        ),
        (lambda folder: (folder / "explanation.json").write_text("{"), "explanation.json cannot be read"),
        (lambda folder: (folder / "explanation.json").write_bytes(b"\xff\xfe"), "explanation.json cannot be"),
        (lambda folder: (folder / "explanation.json").write_text("[]"), "explanation.json cannot be read"),
        (lambda folder: _change_record(folder, format="other"), "is not of the format"),
        (lambda folder: _change_record(folder, images="many"), "explanation.json cannot be read"),
        (lambda folder: _change_record(folder, texts=["one"]), "is damaged"),
        (lambda folder: _change_record(folder, settings={"model": "m"}), "is damaged"),
    ],
)
def test_a_damaged_folder_gives_one_clear_error(tmp_path: Path, damage: object, message: str) -> None:
    explanation_of(2).save(tmp_path / "result")
    damage(tmp_path / "result")  # type: ignore[operator]
    with pytest.raises(ValueError, match=message) as raised:
        Explanation.load(tmp_path / "result")
    assert str(tmp_path / "result") in str(raised.value) and "Save it again" in str(raised.value)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused_with_what_to_do(tmp_path: Path, version: int) -> None:
    explanation_of(1).save(tmp_path / "result")
    _change_record(tmp_path / "result", format_version=version)
    message = f"is of format version {version}, this installation reads 2: explain the images again"
    with pytest.raises(ValueError, match=message):
        Explanation.load(tmp_path / "result")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_explanation_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="holds no saved explanation"):
        Explanation.load(tmp_path / name)
