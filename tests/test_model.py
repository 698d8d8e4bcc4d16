"""CLIPSurgery: from checkpoints of every place to explanations, against the steps taken by hand."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import (
    CLIPForImageClassification,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModelWithProjection,
)

from clip_surgery_hub import hub
from clip_surgery_hub.functional import feature_surgery, presence, unit_length
from clip_surgery_hub.images.loading import ImageError
from clip_surgery_hub.model import CLIPSurgery
from clip_surgery_hub.text.embedding import reference_words
from tests.support.paths import GOLDEN
from tests.support.random_clip import copy_of, random_clip, random_image
from tests.support.tokenizers import letters_tokenizer

TEXTS = ["bench", "person", "ground"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole checkpoint: model, tokenizer, image processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    random_clip().save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder):
    return CLIPSurgery.from_pretrained(folder)


def assert_same(first, second, tolerance=1e-5):
    """Two explanations with the same numbers."""
    for name in ("surgery_similarity", "plain_similarity"):
        for one, other in zip(getattr(first, name), getattr(second, name), strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
    torch.testing.assert_close(first.scores, second.scores, atol=tolerance, rtol=0)
    torch.testing.assert_close(first.plain_scores, second.plain_scores, atol=tolerance, rtol=0)


# Reading pixels.


@pytest.mark.parametrize("size", [64, 96])
def test_pixels_give_the_published_tokens(golden, size):
    clip = CLIPSurgery.from_pretrained(GOLDEN / "checkpoint")
    tokens = clip.encode_image(golden[f"pixel_values_{size}"])
    torch.testing.assert_close(tokens, golden[f"surgery_tokens_{size}"], atol=1e-5, rtol=0)
    assert tokens.dtype == torch.float32 and tokens.device.type == "cpu"
    assert not tokens.requires_grad and not tokens.is_inference()


def test_the_method_none_gives_the_published_plain_tokens(golden):
    clip = CLIPSurgery.from_pretrained(GOLDEN / "checkpoint", method="none")
    tokens = clip.encode_image(golden["pixel_values_64"])
    torch.testing.assert_close(tokens, golden["plain_tokens_64"], atol=1e-5, rtol=0)
    assert (clip.method, clip.depth) == ("none", 0)


def test_bilinear_and_bicubic_position_embeddings_by_hand():
    """The plain tower, block by block, after its position embeddings were resized by hand."""
    pixels = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    results = {}
    for interpolation in ("bilinear", "bicubic"):
        clip = CLIPSurgery(random_clip(), method="none", interpolation=interpolation)
        results[interpolation] = clip.encode_image(pixels)
        plain = random_clip()
        embeddings = plain.vision_model.embeddings
        weight = embeddings.position_embedding.weight.data
        native = weight[1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
        resized = interpolate(native, (5, 7), mode=interpolation, align_corners=False)
        positions = torch.cat([weight[:1], resized.permute(0, 2, 3, 1).reshape(35, 32)])
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        cls = embeddings.class_embedding.expand(2, 1, -1)
        with torch.no_grad():
            hidden = plain.vision_model.pre_layrnorm(torch.cat([cls, patches], dim=1) + positions)
            for block in plain.vision_model.encoder.layers:
                hidden = block(hidden, None)
            tokens = plain.visual_projection(plain.vision_model.post_layernorm(hidden))
        wanted = tokens / tokens.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(results[interpolation], wanted, atol=1e-5, rtol=0)
    assert (results["bilinear"] - results["bicubic"]).abs().max() > 1e-3


def test_two_sizes_in_any_order_and_from_threads_give_what_each_gives_alone(clip):
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    pixels = [
        torch.randn(1, 3, *size, generator=generator) for size in ((32, 32), (48, 64), (64, 48), (8, 80))
    ]
    alone = [copy.deepcopy(clip).encode_image(one) for one in pixels]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 2]):
        for number in order:
            torch.testing.assert_close(clip.encode_image(pixels[number]), alone[number], atol=2e-6, rtol=0)
    failures = []

    def work(number):
        for _ in range(10):
            if not torch.allclose(clip.encode_image(pixels[number]), alone[number], atol=2e-6, rtol=0):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in clip.model.state_dict().items())


def test_cls_is_the_image_embedding_of_the_plain_model(clip):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds = random_clip().get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(clip.encode_image(pixels)[:, 0], unit_length(embeds), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3)])
def test_pixels_of_another_shape_are_refused(clip, shape):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \["):
        clip.encode_image(torch.zeros(shape))


# Explaining.


def test_explain_is_its_steps_taken_by_hand(clip, folder):
    image = random_image(40, 60)
    result = clip.explain(image, TEXTS, background=["sky"])
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), letters_tokenizer()
    # 32 px for the short side: 40 x 60 becomes 32 x 48, a grid of 4 x 6 patches.
    resized = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC)) / 255
    pixels = torch.from_numpy((resized - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).float().permute(2, 0, 1)[None]
    read = CLIPSurgery(model).encode_image(pixels)
    texts = torch.stack([hand_ensemble(model, tokenizer, text) for text in (*TEXTS, "sky")])
    modified = feature_surgery(read, texts)[0]
    assert result.texts == tuple(TEXTS) and result.background == ("sky",) and len(result) == 1
    torch.testing.assert_close(
        result.surgery_similarity[0], modified[1:].T.reshape(4, 4, 6), atol=1e-5, rtol=0
    )
    plain = read[0] @ texts.T
    torch.testing.assert_close(result.plain_similarity[0], plain[1:].T.reshape(4, 4, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.scores, modified[:1, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.plain_scores, plain[:1, :3], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(result.images[0], image)
    assert result.heatmaps()[0].shape == (3, 40, 60)


def hand_ensemble(model, tokenizer, text):
    from clip_surgery_hub.text.embedding import resolve_templates

    ids = tokenizer(
        [template.replace("{}", text) for template in resolve_templates("paper")],
        padding="max_length",
        return_tensors="pt",
    )
    with torch.no_grad():
        features = model.get_text_features(input_ids=ids["input_ids"]).pooler_output
    mean = (features / features.norm(dim=-1, keepdim=True)).mean(0)
    return mean / mean.norm()


def test_redundant_chooses_what_is_taken_away(clip):
    image = random_image(32, 32)
    texts, empty = clip.encode_text(TEXTS), clip.encode_text("")
    tokens = clip.encode(image).tokens[0][None]

    def modified(asked=TEXTS, **options):
        return clip.explain(image, asked, **options).surgery_similarity[0]

    def on_grid(similarity):
        return similarity[0, 1:].T.reshape(-1, 4, 4)

    class_set, given = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), feature_surgery
    cases = [
        (modified(), given(tokens, texts)),
        (modified(redundant="class_set"), given(tokens, texts)),
        (modified(redundant="empty_text"), given(tokens, texts, empty)),
        (modified(redundant="none"), tokens @ texts.T),
        (modified(redundant=class_set), given(tokens, texts, class_set)),
        (modified("bench"), given(tokens, texts[:1], empty)),
        (modified(["bench"]), given(tokens, texts[:1], empty)),
        (modified("bench", background=TEXTS[1:]), given(tokens, texts)),
        (modified("bench", redundant="none"), tokens @ texts[:1].T),
    ]
    for found, wanted in cases:
        torch.testing.assert_close(found, on_grid(wanted), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="two texts or more"):
        modified("bench", redundant="class_set")
    with pytest.raises(
        ValueError, match="'auto', 'class_set', 'empty_text', 'none' or a tensor.*got 'blank'"
    ):
        modified(redundant="blank")
    for asked, others in ((["bench", "Bench"], ()), ("bench", ["bench"])):
        with pytest.raises(
            ValueError, match="all 2 texts of the class set are the same to .* give other texts"
        ):
            clip.explain(random_image(40, 60), asked, background=others)
        assert clip.explain(random_image(40, 60), asked, background=others, redundant="empty_text")
    with pytest.raises(ValueError, match=r"redundant must have shape \[1, C\] = \[1, 16\], got \[16\]"):
        modified(redundant=class_set[0])


def test_images_of_mixed_sizes_are_each_as_alone(clip, tmp_path):
    images = [
        random_image(40, 60, 0),
        random_image(60, 40, 1),
        random_image(32, 32, 2),
        random_image(41, 61, 3),
        random_image(5, 300, 4),
    ]
    Image.fromarray(images[1]).save(tmp_path / "a.png")
    given = [
        images[0],
        tmp_path / "a.png",
        torch.from_numpy(images[2]).permute(2, 0, 1),
        images[3],
        images[4],
    ]
    together = clip.explain(given, TEXTS)
    assert [tuple(one.shape[1:]) for one in together.surgery_similarity] == [
        (4, 6),
        (6, 4),
        (4, 4),
        (4, 6),
        (1, 16),
    ]
    assert [one.shape[1:] for one in together.heatmaps()] == [image.shape[:2] for image in images]
    for number, image in enumerate(images):
        assert_same(together[number], clip.explain(image, TEXTS))
        np.testing.assert_array_equal(together.images[number], image)


def test_many_images_go_through_in_batches(clip, monkeypatch):
    from clip_surgery_hub.images import encoding

    images = [random_image(32, 32 + 16 * (number % 2), number) for number in range(5)]
    at_once = clip.explain(images, TEXTS)
    sizes, tower = [], type(clip.tower)
    encode = tower.encode

    def counted(self, pixels, **options):
        sizes.append(tuple(pixels.shape))
        return encode(self, pixels, **options)

    monkeypatch.setattr(tower, "encode", counted)
    monkeypatch.setattr(encoding, "MOST_TOKENS", 40)
    assert_same(clip.explain(images, TEXTS), at_once)
    assert sizes == [(2, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 48), (1, 3, 32, 48)]


def test_sizes_are_distinguished(clip):
    image = random_image(60, 90)
    assert clip.encode(image).grids == ((4, 6),)
    assert clip.encode(image, size=64).grids == ((8, 12),)
    assert clip.encode(image, size=64, max_side=64).grids == ((5, 8),)
    settings = clip.explain(image, TEXTS, size=64, max_side=80).settings
    assert (settings.size, settings.max_side, settings.window, settings.stride) == (64, 80, None, None)
    with pytest.raises(ValueError, match="size must be at least one patch, 8 pixels, got 7"):
        clip.encode(image, size=7)


def test_encode_once_and_ask_many_times(clip, monkeypatch):
    images = [random_image(40, 60), random_image(32, 32)]
    encoded = clip.encode(images, size=40)
    assert len(encoded) == 2 and [len(tokens) for tokens in encoded.tokens] == [1 + 5 * 8, 1 + 25]
    monkeypatch.setattr(clip, "encode_image", None)
    first = clip.explain(encoded, TEXTS)
    monkeypatch.undo()
    assert_same(first, clip.explain(images, TEXTS, size=40))
    assert first.settings == clip.explain(images, TEXTS, size=40).settings
    assert_same(clip.explain(encoded, "bench"), clip.explain(images, "bench", size=40))


def test_encoded_images_are_asked_as_they_were_read(clip, folder):
    encoded = clip.encode(random_image(32, 32))
    with pytest.raises(ValueError, match="encoded already; give size=64 to encode instead"):
        clip.explain(encoded, TEXTS, size=64)
    others = {
        "method 'clip_surgery'.*'none'": {"method": "none"},
        "depth 3.*2": {"depth": 2},
        "interpolation 'bilinear'.*'bicubic'": {"interpolation": "bicubic"},
    }
    for message, options in others.items():
        with pytest.raises(ValueError, match=f"encoded with {message}; encode them again"):
            CLIPSurgery.from_pretrained(folder, **options).explain(encoded, TEXTS)


def test_embeddings_by_name_stand_for_texts(clip):
    image = random_image(40, 60)
    embeds = clip.encode_text([*TEXTS, "sky"])
    named = dict(zip(TEXTS, embeds[:3] * 7, strict=True))  # any length will do
    result = clip.explain(image, named, background={"sky": embeds[3]})
    assert_same(result, clip.explain(image, TEXTS, background=["sky"]))
    assert result.texts == tuple(TEXTS) and result.settings.templates == "given"
    assert_same(clip.explain(image, {"bench": embeds[0]}), clip.explain(image, "bench"))
    with pytest.raises(TypeError, match=r"dict\(zip\(names, embeddings\)\)"):
        clip.explain(image, embeds)
    with pytest.raises(ValueError, match=r"one shape \[C\], got \[\(1, 16\)\]"):
        clip.explain(image, {"bench": embeds[:1]})
    with pytest.raises(ValueError, match=r"C = 9"):
        clip.explain(image, {"a": torch.ones(9), "b": torch.arange(9.0)})


def test_presence_compares_texts_with_the_reference_words(clip):
    images = [random_image(40, 60), random_image(32, 32, seed=1)]
    result = clip.explain(images, TEXTS)
    prompt = ["a photo of a {}."]
    texts, words = (clip.encode_text(some, prompt) for some in (TEXTS, reference_words()))
    for number, tokens in enumerate(clip.encode(images).tokens):
        wanted = presence(tokens[None], texts, words)
        torch.testing.assert_close(result.presence[number : number + 1], wanted, atol=0.005, rtol=0)
    embeds = dict(zip(TEXTS, clip.encode_text(TEXTS), strict=True))
    assert clip.explain(images, embeds).presence is None


def test_a_window_slides_over_a_large_image(clip):
    image = random_image(64, 96)
    whole = clip.explain(image, TEXTS, size=64)
    slid = clip.explain(image, TEXTS, size=64, window=32, stride=16)
    assert slid.surgery_similarity[0].shape == whole.surgery_similarity[0].shape == (3, 8, 12)
    assert (slid.settings.window, slid.settings.stride) == (32, 16)
    # The first patch is seen by the first window only, at the weight of that window alone.
    corner = clip.explain(image[:32, :32], TEXTS)
    torch.testing.assert_close(
        slid.plain_similarity[0][:, 0, 0], corner.plain_similarity[0][:, 0, 0], atol=1e-5, rtol=0
    )
    assert (slid.plain_similarity[0] - whole.plain_similarity[0]).abs().max() > 1e-3
    assert_same(clip.explain(image, TEXTS, size=64, window=1000), whole, tolerance=0)
    both = clip.explain([image, random_image(64, 64, 1)], TEXTS, size=64, window=32)
    assert_same(both[0], slid)
    with pytest.raises(ValueError, match="stride=16 needs a window"):
        clip.explain(image, TEXTS, stride=16)
    with pytest.raises(ValueError, match="window must be at least one patch"):
        clip.explain(image, TEXTS, window=4)


def test_results_are_float32_on_the_cpu_whatever_the_weights(folder, clip):
    rounded = CLIPSurgery.from_pretrained(folder, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    result, exact = rounded.explain(random_image(40, 60), TEXTS), clip.explain(random_image(40, 60), TEXTS)
    for tensor in (*result.surgery_similarity, *result.plain_similarity, result.scores, result.plain_scores):
        assert tensor.dtype == torch.float32 and not tensor.requires_grad and not tensor.is_inference()
    assert_same(result, exact, tolerance=0.1)
    tokens = rounded.encode(random_image(40, 60)).tokens[0]
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(25), atol=1e-6, rtol=0)


def test_settings_say_how_it_was_made(clip, folder):
    settings = clip.explain(random_image(40, 60), TEXTS, redundant="empty_text").settings
    assert (settings.model, settings.method, settings.depth) == (str(folder), "clip_surgery", 3)
    assert (settings.templates, settings.redundant, settings.interpolation) == (
        "paper",
        "empty_text",
        "bilinear",
    )
    assert clip.explain(random_image(8, 8), TEXTS, redundant=torch.zeros(1, 16)).settings.redundant == "given"


# Texts.


def test_encode_text_takes_one_text_or_many_and_any_templates(clip):
    one, many = clip.encode_text("bench"), clip.encode_text(["bench", "person"])
    assert one.shape == (1, 16) and torch.equal(many[:1], one)
    bare = clip.encode_text("bench", templates=None)
    torch.testing.assert_close(bare, clip.encode_text("bench", ["{}"]), atol=0, rtol=0)
    assert (bare - one).abs().max() > 1e-3
    with pytest.raises(ValueError, match="no text was given"):
        clip.encode_text([])
    with pytest.raises(ValueError, match="takes 78 tokens.*at most 77"):
        clip.encode_text("a" * 76, templates=None)
    assert clip.encode_text("a" * 76, templates=None, truncate=True).shape == (1, 16)


def test_words_never_seen_in_training_are_said_once(folder):
    known = frozenset({"bench", "traffic", "light", "person"})
    clip = CLIPSurgery(random_clip(), name="tiny.drawn", tokenizer=letters_tokenizer(), known_words=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.encode_text(["bench", "a traffic light", "The Person", ""])
    wanted = (
        "tiny.drawn was shown nothing called 'cat', 'zebra' in training: .*"
        r'CLIPSurgery.from_pretrained\("openai/clip-vit-base-patch16"\)'
    )
    with pytest.warns(UserWarning, match=wanted):
        clip.encode_text(["zebra", "cat on a bench"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.encode_text("a zebra")


def test_the_known_words_come_with_the_checkpoint(folder, tmp_path):
    assert CLIPSurgery.from_pretrained(folder).known_words is None
    copy_of(folder, tmp_path)
    (tmp_path / "concepts.json").write_text('{"concepts": ["Tennis ball", "dog"], "backgrounds": ["sky"]}')
    clip = CLIPSurgery.from_pretrained(tmp_path)
    assert clip.known_words == {"tennis", "ball", "dog", "sky"}
    with pytest.warns(UserWarning, match="shown nothing called 'bench'"):
        clip.explain(clip.encode(random_image(32, 32)), ["dog", "bench"])
    (tmp_path / "concepts.json").write_text('["dog"]')
    with pytest.raises(ValueError, match="concepts.json must hold lists of texts by name"):
        CLIPSurgery.from_pretrained(tmp_path)


# Checkpoints.


def test_a_registered_name_and_a_folder_load_the_same(folder, clip, monkeypatch):
    entry = hub.Entry(name="clip_test.random", source=str(folder))
    monkeypatch.setitem(hub.registry._ENTRIES, entry.name, entry)
    named = CLIPSurgery.from_pretrained("clip_test.random", depth=2)
    assert (named.name, named.method, named.depth) == ("clip_test.random", "clip_surgery", 2)
    assert named.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert torch.equal(named.encode_text("bench"), clip.encode_text("bench"))
    assert repr(named) == "CLIPSurgery(clip_test.random, clip_surgery at depth 2, torch.float32 on cpu)"


OFFLINE = """
from clip_surgery_hub import CLIPSurgery
for revision in (None, "v2"):
    clip = CLIPSurgery.from_pretrained("someone/clip-random", revision=revision)
    assert clip.name == "someone/clip-random" and clip.normalization.mean == (0.5, 0.4, 0.3)
print(*clip.encode_text("bench")[0, :4].tolist())
try:
    CLIPSurgery.from_pretrained("someone/not-there")
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["offline mode", "nobody answers"],
)
def test_a_hub_id_is_read_from_the_cache_without_a_network(network, folder, clip, tmp_path):
    """A cache as huggingface_hub lays it out: refs name a commit, snapshots hold its files."""
    repository, commit = tmp_path / "models--someone--clip-random", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    for revision in ("main", "v2"):
        (repository / "refs" / revision).write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    copy_of(folder, repository / "snapshots" / commit)
    answer = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"} | network,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    *_, found, refused = answer.stdout.splitlines()  # transformers may have had something to say before
    wanted = clip.encode_text("bench")[0, :4].tolist()
    assert [float(number) for number in found.split()] == pytest.approx(wanted, abs=1e-6)
    assert refused.startswith(
        "the model someone/not-there cannot be loaded: it is not in the cache and the hub"
    )
    assert "Retry" not in answer.stderr  # the hub's client would knock at every file's door for half a minute


def test_without_tokenizer_and_image_processor_pixels_still_go(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    clip = CLIPSurgery.from_pretrained(tmp_path)
    assert clip.tokenizer is None and clip.normalization is None
    assert clip.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 17, 16)
    with pytest.raises(ValueError, match="has no tokenizer files; add them, or give embeddings by name"):
        clip.encode_text("bench")
    with pytest.raises(
        ValueError, match=r"has no image processor file \(preprocessor_config.json\).*encode_image"
    ):
        clip.encode(random_image(32, 32))


def test_a_vision_tower_alone_reads_pixels_and_takes_embeddings(tmp_path, folder, clip):
    whole = random_clip()
    vision = CLIPVisionModelWithProjection(whole.config.vision_config)
    vision.vision_model.load_state_dict(whole.vision_model.state_dict())
    vision.visual_projection.load_state_dict(whole.visual_projection.state_dict())
    vision.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    alone = CLIPSurgery.from_pretrained(tmp_path)
    embeds = dict(zip(TEXTS, clip.encode_text(TEXTS), strict=True))
    assert_same(alone.explain(random_image(40, 60), embeds), clip.explain(random_image(40, 60), TEXTS))
    with pytest.raises(ValueError, match="CLIPVisionModelWithProjection has no text tower"):
        alone.encode_text("bench")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    """AutoModel would fill the text tower of a classifier with random numbers."""
    CLIPForImageClassification(random_clip().config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of CLIPModel \(.*\).*would be random"):
        CLIPSurgery.from_pretrained(tmp_path)


def test_damaged_and_missing_checkpoints_are_said_in_one_line(folder, tmp_path):
    with pytest.raises(
        ValueError, match="must hold a model of transformers, as save_pretrained writes it"
    ) as error:
        CLIPSurgery.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    copy_of(folder, tmp_path)
    for name, what in (("tokenizer.json", "tokenizer"), ("preprocessor_config.json", "image processor")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:50])
        with pytest.raises(ValueError, match=f"the {what} of .* cannot be loaded") as error:
            CLIPSurgery.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="the weights of .* are damaged") as error:
        CLIPSurgery.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="cannot be loaded: it must hold a model") as error:
        CLIPSurgery.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_wrong_arguments_leave_the_model_alone():
    model = random_clip()
    for error, options, message in [
        (ValueError, {"interpolation": "nearest"}, "'bilinear' or 'bicubic', got 'nearest'"),
        (ValueError, {"method": "clip_surgeri"}, "did you mean 'clip_surgery'"),
        (ValueError, {"depth": 4}, "from 1 to 3"),
    ]:
        with pytest.raises(error, match=message):
            CLIPSurgery(model, **options)
    assert CLIPSurgery(model).depth == 3
    with pytest.raises(RuntimeError, match="under surgery already"):
        CLIPSurgery(model)


def test_a_broken_image_is_an_image_error(clip, tmp_path):
    with pytest.raises(ImageError, match="There is no file"):
        clip.explain([random_image(8, 8), tmp_path / "nowhere.png"], TEXTS)


def test_copies_and_pickles_explain_alike(clip):
    image = random_image(40, 60)
    wanted = clip.explain(image, TEXTS)
    for other in (copy.deepcopy(clip), pickle.loads(pickle.dumps(clip))):
        assert_same(other.explain(image, TEXTS), wanted, tolerance=2e-6)
        assert other.tower.vision is other.model.vision_model
