"""A SigLIP checkpoint in all that is built on a tower: explanations, runs of many images, commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import SiglipImageProcessorPil

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.functional import feature_surgery, presence, unit_length
from clip_surgery_hub.text.embedding import embed_texts, reference_words
from tests.support.command_line import Run
from tests.support.text_families import family
from tests.support.tokenizers import siglip_tokenizer

TEXTS = ["cat", "potted plant", "tv monitor"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = family("siglip")
    for part in (model, siglip_tokenizer(), SiglipImageProcessorPil(size={"height": 16, "width": 16})):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(checkpoint: Path) -> CLIPSurgery:
    return CLIPSurgery.from_pretrained(str(checkpoint), depth=1, device="cpu")


def random_image(height: int = 40, width: int = 64) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))


def test_an_explanation_is_its_steps_taken_by_hand(checkpoint: Path, clip: CLIPSurgery) -> None:
    """Normalized to [-1, 1] as SigLIP's processor does, token 0 the pooled embedding of the plain model."""
    given = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(3)).mul(255).round() / 255
    result = clip.explain(given, TEXTS)
    pixels = given[None] * 2 - 1
    with torch.no_grad():
        pooled = clip.model.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
    tokens = clip.encode_image(pixels)
    assert tokens.shape == (1, 1 + 2 * 3, 32)
    bicubic = CLIPSurgery.from_pretrained(str(checkpoint), interpolation="bicubic", device="cpu")
    torch.testing.assert_close(bicubic.encode_image(pixels)[:, 0], unit_length(pooled), rtol=0, atol=1e-6)
    embeds = embed_texts(clip.model, clip.tokenizer, TEXTS)
    similarity = feature_surgery(tokens, embeds)[0]
    torch.testing.assert_close(result.scores[0], similarity[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.surgery_similarity[0].flatten(1).T, similarity[1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.plain_scores[0], (tokens[0, 0] @ embeds.T), rtol=0, atol=1e-5)
    alone = ["a photo of a {}."]
    asked = embed_texts(clip.model, clip.tokenizer, TEXTS, templates=alone)
    others = embed_texts(clip.model, clip.tokenizer, reference_words(), templates=alone)
    torch.testing.assert_close(result.presence, presence(tokens, asked, others))


def test_windows_and_sizes_are_read(clip: CLIPSurgery) -> None:
    result = clip.explain([random_image(), random_image(50, 30)], ["cat"], size=32, window=16)
    assert [one.shape for one in result.surgery_similarity] == [(1, 4, 6), (1, 7, 4)]
    assert [heat.shape for heat in result.heatmaps()] == [(1, 40, 64), (1, 50, 30)]


def test_raw_siglip_is_read_too(checkpoint: Path, clip: CLIPSurgery) -> None:
    raw = CLIPSurgery.from_pretrained(str(checkpoint), method="none", device="cpu")
    pixels = random_image(16, 16)[None] * 2 - 1
    plain, modified = raw.encode_image(pixels), clip.encode_image(pixels)
    assert torch.equal(plain[:, 0], modified[:, 0])
    assert (plain[:, 1:] - modified[:, 1:]).abs().max() > 1e-3
    with torch.no_grad():
        out = raw.model.vision_model(pixels)
        alone = torch.stack([raw.model.vision_model.head(out.last_hidden_state[:, [n]]) for n in range(4)], 1)
    torch.testing.assert_close(plain[:, 1:], unit_length(alone), rtol=0, atol=1e-6)


def test_a_caption_is_refused_in_one_line(clip: CLIPSurgery) -> None:
    with pytest.raises(ValueError, match="SiglipModel pools the last position, .* give them to explain"):
        clip.sentence(random_image(), "a cat in the scene")


def test_a_run_of_many_images_says_what_explain_says(clip: CLIPSurgery, place: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from clip_surgery_hub.prediction import ImageDataModule, SurgeryPredictor

    predictor = SurgeryPredictor(clip, TEXTS, outputs=("scores", "embeddings", "maps"))
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    batches = trainer.predict(predictor, ImageDataModule("images", batch_size=2))
    rows = {row["key"]: row for batch in batches for row in batch}
    assert set(rows) == {"a.png", "b.jpg"}
    for key, row in rows.items():
        encoded = clip.encode(place / "images" / key)
        result = clip.explain(encoded, TEXTS)
        np.testing.assert_allclose(row["embeddings"], encoded.tokens[0][0], atol=1e-5)
        np.testing.assert_allclose(row["scores"], result.scores[0], atol=1e-5)
        assert [row["grid_height"], row["grid_width"]] == list(result.surgery_similarity[0].shape[1:])


def test_commands_explain_and_say_what_they_cannot(
    checkpoint: Path,
    command: Run,
    place: Path,
) -> None:
    asked = ("images/a.png", "--text", "cat", "--text", "plant", "--model", checkpoint)
    done = command("explain", *asked)
    assert done.code == 0 and done.out.startswith("images/a.png: cat ")
    looked = command("analyze", *asked)
    assert (looked.code, looked.out) == (2, "")
    assert looked.err == (
        "error: SiglipVisionModel cannot be looked into: only towers built of CLIP's blocks in transformers "
        "can\n"
    )
    said = command("sentence", "images/a.png", "--caption", "a cat", "--model", checkpoint)
    assert said.code == 2 and "pools the last position" in said.err and said.err.count("\n") == 1


def test_a_tokenizer_that_needs_sentencepiece_says_so(tmp_path, monkeypatch):
    """The first SigLIP's checkpoints come with spiece.model alone."""
    from clip_surgery_hub.checkpoints import preprocessing

    (tmp_path / "spiece.model").write_bytes(b"no sentences")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    monkeypatch.setattr(preprocessing, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package sentencepiece: pip install 'clip-surgery-hub\[siglip\]'"):
        preprocessing.load_tokenizer(str(tmp_path), None, text_config=None)
