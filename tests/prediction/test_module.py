"""The module in any Trainer: its rows are what `CLIPSurgery.explain` says of the same images."""

import copy
import pickle
import runpy
import shutil
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.images.masks import class_masks, rle_to_mask
from clip_surgery_hub.prediction import COLUMNS, ImageDataModule, SurgeryPredictor
from clip_surgery_hub.prediction.runs import OUTPUTS, read_errors, read_run
from tests.support.paths import EXAMPLES

TEXTS = ["bench", "a red dog"]
SIZES = {"a.png": (40, 60), "b.png": (50, 30), "c.png": (32, 32), "d.png": (40, 60), "e.png": (24, 97)}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with images of four shapes, and one that is none."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, size in SIZES.items():
        small = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(folder / name)
    (folder / "broken.png").write_text("not an image")
    return folder


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(accelerator="cpu", devices=1, **quiet, **options)


def predicted(predictor, images, *, batch_size=2, **options):
    """Key -> row, of a Trainer without a writer."""
    batches = trainer(**options).predict(predictor, ImageDataModule(str(images), batch_size=batch_size))
    rows = [row for batch in batches for row in batch]
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == len(by_key) == len(SIZES) + 1
    error = by_key.pop("broken.png")["error"]
    assert error["kind"] == "not_an_image" and "broken.png" in error["message"]
    return by_key


def boxes_of(row):
    return [[[box[name] for name in ("x0", "y0", "x1", "y1")] for box in boxes] for boxes in row["boxes"]]


def assert_row_is(row, explanation, embedding, *, atol):
    """A row with all outputs says what the explanation of one image does."""
    texts, background = explanation.texts, explanation.background
    assert [row["height"], row["width"]] == list(explanation.images[0].shape[:2])
    assert [row["grid_height"], row["grid_width"]] == list(explanation.surgery_similarity[0].shape[1:])
    np.testing.assert_allclose(row["scores"], explanation.scores[0], atol=atol)
    np.testing.assert_allclose(row["presence"], explanation.presence[0], atol=atol)
    np.testing.assert_allclose(row["embeddings"], embedding, atol=atol)
    np.testing.assert_allclose(
        row["maps"].astype(np.float32), explanation.similarity[0], rtol=2**-11, atol=atol
    )
    for points, wanted in zip(row["points"], explanation.points()[0], strict=True):
        assert [[point["x"], point["y"]] for point in points] == wanted.xy.tolist()
        assert [point["label"] for point in points] == wanted.labels.tolist()
    assert boxes_of(row) == [boxes.tolist() for boxes in explanation.boxes()[0]]
    labels = explanation.labels(top_k=5)[0]
    assert [label["text"] for label in row["labels"]] == [label.text for label in labels]
    np.testing.assert_allclose(
        [one["score"] for one in row["labels"]], [one.score for one in labels], atol=atol
    )
    assert [segment["text"] for segment in row["segments"]] == [*texts, *background]
    masks = class_masks(explanation.segment()[0], len(texts) + len(background))
    for segment, mask in zip(row["segments"], masks, strict=True):
        size = [segment["height"], segment["width"]]
        assert torch.equal(rle_to_mask({"size": size, "counts": segment["counts"]}), mask)


CASES = {
    "as it comes": {},
    "background": {"background": ["sky", "a road"]},
    "one text": {"texts": ["bench"]},
    "class set": {"redundant": "class_set"},
    "empty text": {"redundant": "empty_text", "background": ["sky"]},
    "plain similarity": {"redundant": "none"},
    "smaller": {"size": 16},
    "larger, cut": {"size": 40, "max_side": 48},
    "one block": {"depth": 1},
    "raw CLIP": {"method": "none"},
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_what_explain_says(checkpoint, images, case):
    options = dict(CASES[case])
    texts = options.pop("texts", TEXTS)
    predictor = SurgeryPredictor(str(checkpoint), texts, outputs=tuple(COLUMNS), **options)
    rows = predicted(predictor, images)
    making = {name: options.pop(name) for name in ("method", "depth") if name in options}
    image_transform = {name: options.pop(name) for name in ("size", "max_side") if name in options}
    clip = CLIPSurgery.from_pretrained(str(checkpoint), device="cpu", **making)
    for name in SIZES:
        encoded = clip.encode(images / name, **image_transform)
        assert set(rows[name]) == {"key", "height", "width", "grid_height", "grid_width", *COLUMNS}
        wanted = clip.explain(encoded, texts, **options)
        assert_row_is(rows[name], wanted, encoded.tokens[0][0], atol=2e-6)


def test_the_module_and_the_tables_know_the_same_outputs_in_one_order():
    assert tuple(COLUMNS) == OUTPUTS


def test_only_what_is_asked_for_is_kept_in_the_order_of_the_table(checkpoint, images):
    predictor = SurgeryPredictor(str(checkpoint), TEXTS, outputs=("labels", "scores"), labels=1)
    row = predicted(predictor, images)["c.png"]
    assert list(row)[5:] == ["scores", "labels"]
    best = int(np.argmax(row["scores"]))
    assert row["labels"] == [{"text": TEXTS[best], "score": pytest.approx(row["scores"][best])}]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "16-true", "64-true"])
def test_any_precision_is_close_to_float32(checkpoint, images, precision):
    rows = predicted(
        SurgeryPredictor(str(checkpoint), TEXTS, outputs=tuple(COLUMNS)), images, precision=precision
    )
    clip = CLIPSurgery.from_pretrained(str(checkpoint), device="cpu")
    for name in SIZES:
        wanted = clip.explain(images / name, TEXTS)
        assert rows[name]["scores"].dtype == np.float32
        scale = float(wanted.similarity[0].abs().max())
        np.testing.assert_allclose(rows[name]["scores"], wanted.scores[0], atol=0.05 * scale)
        difference = np.abs(rows[name]["maps"].astype(np.float32) - wanted.similarity[0].numpy())
        assert difference.max() < 0.1 * scale
        embedding = clip.encode(images / name).tokens[0][0].numpy()
        assert rows[name]["embeddings"] @ embedding > 0.999
        assert np.linalg.norm(rows[name]["embeddings"]) == pytest.approx(1, abs=1e-5)


def test_low_precision_is_that_of_the_tower_alone(checkpoint, images):
    """Similarity, points and masks are computed in float32, as they are of a model loaded in bfloat16."""
    predictor = SurgeryPredictor(str(checkpoint), TEXTS, outputs=tuple(COLUMNS))
    rows = predicted(predictor, images, precision="bf16-true", batch_size=1)
    clip = CLIPSurgery.from_pretrained(str(checkpoint), device="cpu", dtype=torch.bfloat16)
    for name in SIZES:
        encoded = clip.encode(images / name)
        assert_row_is(rows[name], clip.explain(encoded, TEXTS), encoded.tokens[0][0], atol=2e-6)


def test_a_batch_without_images_gives_its_errors_alone(checkpoint):
    predictor = SurgeryPredictor(str(checkpoint), TEXTS)
    batch = {
        "keys": [],
        "pixels": torch.empty(0, 3, 8, 8, dtype=torch.uint8),
        "heights": torch.empty(0, dtype=torch.int64),
        "widths": torch.empty(0, dtype=torch.int64),
        "errors": [{"key": "a", "kind": "empty", "message": "It is empty."}],
    }
    assert predictor.predict_step(batch) == [
        {"key": "a", "error": {"kind": "empty", "message": "It is empty."}}
    ]
    assert predictor.predict_step(batch | {"errors": []}) == []


def test_texts_are_embedded_once_and_are_not_saved(checkpoint, images, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CLIP_SURGERY_CACHE", str(cache))
    predictor = SurgeryPredictor(str(checkpoint), TEXTS, background=["sky"])
    seen = []
    predictor.model.text_model.register_forward_hook(lambda *_: seen.append(1))
    first = predicted(predictor, images)
    embedded = len(seen)
    assert embedded > 0
    shutil.rmtree(cache)
    again = predicted(predictor, images)
    assert len(seen) == embedded
    assert all(np.array_equal(first[name]["scores"], again[name]["scores"]) for name in SIZES)

    assert predictor._query.class_set.shape == (3, 16)
    assert set(dict(predictor.named_buffers())) == {
        f"model.{name}" for name, _ in predictor.model.named_buffers()
    }
    assert set(predictor.state_dict()) == {f"model.{name}" for name in predictor.model.state_dict()}
    assert not cache.exists()


def test_the_module_can_be_moved_copied_and_pickled(checkpoint, images):
    predictor = SurgeryPredictor(str(checkpoint), TEXTS, outputs=tuple(COLUMNS))
    wanted = predicted(predictor, images)
    copied = copy.deepcopy(predictor)
    assert copied.clip.model is copied.model and copied.model is not predictor.model
    assert copied._query.class_set.data_ptr() != predictor._query.class_set.data_ptr()
    with torch.no_grad():
        for parameter in predictor.parameters():  # what becomes of the first is nothing to the others
            parameter.zero_()
    for other in (copied, pickle.loads(pickle.dumps(copied)), copy.deepcopy(copied).double()):
        rows = predicted(other, images)
        for name in SIZES:
            np.testing.assert_allclose(rows[name]["scores"], wanted[name]["scores"], atol=2e-6)
            assert rows[name]["points"] == wanted[name]["points"]
            assert rows[name]["segments"] == wanted[name]["segments"]


def test_a_model_in_hand_is_taken_as_it_is(checkpoint, images):
    clip = CLIPSurgery.from_pretrained(str(checkpoint), depth=1, interpolation="bicubic", device="cpu")
    predictor = SurgeryPredictor(clip, TEXTS, outputs=tuple(COLUMNS), size=48)
    assert predictor.clip is clip
    assert (predictor.settings.depth, predictor.settings.interpolation) == (1, "bicubic")
    rows = predicted(predictor, images)
    for name in SIZES:
        encoded = clip.encode(images / name, size=48)
        assert_row_is(rows[name], clip.explain(encoded, TEXTS), encoded.tokens[0][0], atol=2e-6)
    for given in ({"method": "none"}, {"depth": 2}):
        with pytest.raises(ValueError, match="A CLIPSurgery has its method and depth already"):
            SurgeryPredictor(clip, TEXTS, **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": []}, "No text was given; say what to look for in texts."),
        ({"texts": "bench"}, r"texts is a list, got the text 'bench': write \['bench'\]."),
        ({"background": "sky"}, r"background is a list, got the text 'sky': write \['sky'\]."),
        ({"outputs": ("scores", "heat")}, "There is no output 'heat'. Choose from scores, presence, points"),
        ({"outputs": ()}, "No output was chosen. Choose from scores"),
        ({"labels": 0}, "labels must be at least 1, got 0."),
        ({"method": "surgery"}, "surgery"),
        ({"depth": 3}, "depth"),
        ({"size": 3}, "3"),
        ({"redundant": "some"}, "redundant must be one of 'auto', 'class_set', 'empty_text', 'none'"),
        ({"model": "clip_vit_tiny.nothing"}, "clip_vit_tiny.nothing"),
    ],
)
def test_wrong_input_is_refused_in_one_line(checkpoint, options, message):
    given = {"model": str(checkpoint), "texts": TEXTS} | options
    with pytest.raises(ValueError, match=message) as refused:
        SurgeryPredictor(given.pop("model"), given.pop("texts"), **given)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_does_not_say_how_images_are_normalized_is_refused(
    checkpoint,
    tmp_path: Path,
):
    shutil.copytree(checkpoint, tmp_path / "copy")
    (tmp_path / "copy" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="has no image processor file"):
        SurgeryPredictor(str(tmp_path / "copy"), TEXTS)


def test_texts_that_do_not_fit_are_refused_before_the_first_batch(checkpoint, images):
    predictor = SurgeryPredictor(str(checkpoint), ["bench " * 40])
    with pytest.raises(ValueError, match="bench"):
        trainer().predict(predictor, ImageDataModule(str(images)))


def test_a_config_of_lightning_s_command_line_gives_the_same_rows(
    checkpoint,
    images,
    tmp_path,
    monkeypatch,
):
    main = runpy.run_path(str(EXAMPLES / "lightning_cli.py"))["main"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(images)
    changes = [f"--model.model={checkpoint}", "--data.workers=0", "--trainer.accelerator=cpu"]
    config = ["--config", str(EXAMPLES / "predict.yaml"), "--trainer.enable_progress_bar=false"]
    main(["predict", *config, *changes, "--trainer.devices=1"])
    table = {row["key"]: row for row in read_run("run").to_pylist()}
    assert read_errors("run")["key"].to_pylist() == ["broken.png"]
    predictor = SurgeryPredictor(str(checkpoint), ["bench", "dog"], background=["sky", "grass"])
    rows = predicted(predictor, images, batch_size=32)
    assert set(table) == set(rows)
    for key, row in rows.items():
        for name in ("scores", "presence"):
            np.testing.assert_allclose(table[key][name], row[name], atol=2e-6)
        assert table[key]["points"] == row["points"]
