"""Saved and pushed models: plain ones for transformers, with their surgery for this library.

The hub is `hub_server.py` on loopback. Its client runs in other processes, since this one is in offline mode.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from clip_surgery_hub import hub
from clip_surgery_hub.images.image_transform import Normalization
from clip_surgery_hub.model import CLIPSurgery
from tests.support.hub_server import Hub, Repository, running_hub
from tests.support.paths import ASSETS, ROOT
from tests.support.random_clip import copy_of, random_clip, random_image
from tests.support.tokenizers import letters_tokenizer

TEXTS = ["bench", "person"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as others publish it, with words that it knows."""
    folder = tmp_path_factory.mktemp("published")
    random_clip().save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    (folder / "concepts.json").write_text('{"concepts": ["bench", "person"]}')
    return folder


@pytest.fixture
def clip(folder: Path) -> CLIPSurgery:
    return CLIPSurgery.from_pretrained(folder, depth=2, interpolation="bicubic")


# Folders.


def test_transformers_loads_the_folder_as_the_plain_clip_bit_for_bit(
    clip: CLIPSurgery, folder: Path, tmp_path: Path
) -> None:
    clip.save_pretrained(tmp_path / "saved")
    model, found = AutoModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert type(model) is CLIPModel
    assert not any(found.values()), found
    wanted = CLIPModel.from_pretrained(folder).state_dict()
    assert model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    for kind, given in ((AutoTokenizer, TEXTS), (AutoImageProcessor, Image.fromarray(random_image(40, 60)))):
        first, second = (kind.from_pretrained(place)(given) for place in (folder, tmp_path / "saved"))
        assert str(first) == str(second)
    for name in ("preprocessor_config.json", "concepts.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()


def test_this_library_loads_the_folder_with_its_surgery_unless_told_otherwise(
    clip: CLIPSurgery, tmp_path: Path
) -> None:
    clip.save_pretrained(tmp_path / "saved")
    load = CLIPSurgery.from_pretrained
    same = load(tmp_path / "saved")
    assert (same.method, same.depth, same.interpolation) == ("clip_surgery", 2, "bicubic")
    assert same.known_words == {"bench", "person"}
    first, second = (one.explain(random_image(40, 60), TEXTS) for one in (clip, same))
    assert all(map(torch.equal, first.surgery_similarity, second.surgery_similarity))
    other = load(tmp_path / "saved", depth=1, interpolation="bilinear")
    assert (other.method, other.depth, other.interpolation) == ("clip_surgery", 1, "bilinear")
    # The saved depth belongs to the saved method.
    assert (load(tmp_path / "saved", method="none").depth, load(tmp_path / "saved").depth) == (0, 2)
    raw = load(tmp_path / "saved", method="none")
    raw.save_pretrained(tmp_path / "raw")
    assert json.loads((tmp_path / "raw" / "clip_surgery.json").read_text()) == {
        "format": "clip_surgery_hub surgery",
        "format_version": 1,
        "library_version": "0.1.0",
        "method": "none",
        "depth": None,
        "interpolation": "bicubic",
    }
    assert load(tmp_path / "raw").method == "none"
    assert load(tmp_path / "raw", method="clip_surgery").depth == 3


def test_saving_leaves_the_model_as_it_is(clip: CLIPSurgery, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    classes = [type(module) for module in clip.model.modules()]
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = clip.encode_image(pixels)
    clip.save_pretrained(tmp_path / "saved")
    assert [type(module) for module in clip.model.modules()] == classes
    assert clip.model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in clip.model.state_dict().items())
    assert torch.equal(clip.encode_image(pixels), tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_of_the_weights_is_kept(dtype: torch.dtype, folder: Path, tmp_path: Path) -> None:
    CLIPSurgery.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path / "saved")
    assert AutoModel.from_pretrained(tmp_path / "saved").dtype == dtype
    wanted = CLIPModel.from_pretrained(folder).logit_scale.detach().to(dtype)
    assert torch.equal(CLIPSurgery.from_pretrained(tmp_path / "saved", dtype=dtype).model.logit_scale, wanted)
    halves = (tmp_path / "saved" / "model.safetensors").stat().st_size
    assert halves == pytest.approx((folder / "model.safetensors").stat().st_size / 2, rel=0.2)


def test_what_came_without_files_is_written_from_what_is_known(tmp_path: Path) -> None:
    clip = CLIPSurgery(
        random_clip(),
        tokenizer=letters_tokenizer(),
        processor=Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), Image.Resampling.BILINEAR),
        known_words=frozenset({"bench"}),
    )
    clip.save_pretrained(tmp_path / "saved")
    same = CLIPSurgery.from_pretrained(tmp_path / "saved")
    assert (same.normalization, same.known_words) == (clip.normalization, clip.known_words)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    pixels = processor(Image.new("RGB", (50, 40), (255, 0, 0)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    wanted = torch.tensor([(1 - 0.1) / 0.4, -0.2 / 0.5, -0.3 / 0.6])
    torch.testing.assert_close(pixels[0, :, 5, 5], wanted, atol=1e-5, rtol=0)
    bare = CLIPSurgery(random_clip())
    bare.save_pretrained(tmp_path / "bare")
    names = {path.name for path in (tmp_path / "bare").iterdir()}
    assert names == {"README.md", "clip_surgery.json", "config.json", "model.safetensors"}


def test_an_earlier_save_is_replaced_whole_and_its_card_is_kept(clip: CLIPSurgery, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "# saved" in card
    (tmp_path / "saved" / "README.md").write_text("mine")
    (tmp_path / "saved" / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier model")
    CLIPSurgery(random_clip(), depth=1).save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"README.md", "clip_surgery.json", "config.json", "model.safetensors"}
    assert (tmp_path / "saved" / "README.md").read_text() == "mine"
    assert CLIPSurgery.from_pretrained(tmp_path / "saved").depth == 1


def test_other_folders_are_refused_and_left_as_they_are(
    clip: CLIPSurgery, folder: Path, tmp_path: Path
) -> None:
    copy_of(folder, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="holds other files and was left as it is"):
        clip.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    clip.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "notes.txt").write_text("of a person")
    with pytest.raises(FileExistsError, match="holds other files"):
        clip.save_pretrained(tmp_path / "saved")


def test_a_save_that_fails_leaves_what_was_there(
    clip: CLIPSurgery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip.save_pretrained(tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(type(clip.tokenizer), "save_pretrained", fail)
    for name in ("saved", "new"):
        with pytest.raises(OSError, match="No space left"):
            clip.save_pretrained(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before


def test_what_transformers_could_not_load_again_is_refused_in_one_line(
    clip: CLIPSurgery, tmp_path: Path
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    wrapped = CLIPSurgery(nn.Sequential(random_clip()))
    own = CLIPSurgery(random_clip(), tokenizer=str.split)
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), clip.model)
    for one, error, message in (
        (wrapped, TypeError, "Sequential is not a model of transformers, .*torch.save"),
        (own, TypeError, "is not a tokenizer of transformers"),
        (clip, ValueError, "has adapters of peft in it.*merge"),
    ):
        for act in (
            lambda one=one: one.save_pretrained(tmp_path / "x"),
            lambda one=one: one.push_to_hub("a/b"),
        ):
            with pytest.raises(error, match=message) as refusal:
                act()
            assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "clip_surgery.json is damaged"),
        ("[]", "clip_surgery.json must hold names and values"),
        ("[" * 100_000, "clip_surgery.json is damaged"),
        ('{"format": "clip_surgery_hub surgery", "format_version": 1}', "'method' is missing"),
        ({"format": "another"}, "is not of the format"),
        ({"format_version": 2}, "is of format version 2, this installation reads 1. Upgrade"),
        ({"depth": "six"}, "depth null or a number from 1 on"),
        ({"depth": True}, "depth null or a number from 1 on"),
        ({"depth": 0}, "depth null or a number from 1 on"),
        ({"method": 5}, "method must be a name"),
        ({"interpolation": "nearest"}, "interpolation one of bilinear, bicubic"),
        ({"method": "of_tomorrow"}, "asks for the method 'of_tomorrow', which is not known here"),
    ],
)
def test_a_damaged_surgery_file_is_refused_by_name(
    content: Any, message: str, clip: CLIPSurgery, tmp_path: Path
) -> None:
    clip.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "clip_surgery.json"
    if not isinstance(content, str):
        content = json.dumps(json.loads(file.read_text()) | content)
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        CLIPSurgery.from_pretrained(tmp_path / "saved")
    assert "clip_surgery.json" in str(error.value) and "\n" not in str(error.value)


def test_the_card_has_metadata_that_the_hub_reads(
    clip: CLIPSurgery, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip.save_pretrained(tmp_path / "saved", license="mit", base_model="openai/clip-vit-base-patch16")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.to_dict() == {
        "base_model": "openai/clip-vit-base-patch16",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "clip-surgery", "explainability", "open-vocabulary-segmentation"],
    }
    for line in ("| depth | the last 2 blocks |", "bicubic", 'from_pretrained("saved")', "arXiv 2304.05653"):
        assert line in card.text
    # Of a registered model the hub id, of a folder nothing: it is a place on somebody's machine.
    entry = hub.Entry(name="clip_test.random", source="someone/clip-random", license="cc-by-4.0")
    monkeypatch.setitem(hub.registry._ENTRIES, entry.name, entry)
    for name, base in ((entry.name, "someone/clip-random"), ("a/b", "a/b"), (str(folder), None)):
        clip.name = name
        clip.save_pretrained(tmp_path / "of" / name.replace("/", "_"))
        found = ModelCard.load(tmp_path / "of" / name.replace("/", "_") / "README.md")
        assert found.data.base_model == base
        assert found.data.license == ("cc-by-4.0" if name == entry.name else None)
        assert str(folder) not in found.content


# The hub.

# Runs what comes in line by line, and answers with what it left in `told`, or with its error.
CLIENT = """
import json, os, sys
answers, names = os.fdopen(os.dup(1), "w"), {}
os.dup2(2, 1)  # libraries of other languages print too
for line in sys.stdin:
    try:
        exec(json.loads(line), names)
        answer = {"told": names.pop("told", None)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)
"""


class Client:
    """A process that talks to the hub as a user's would, with the library's client as it is."""

    def __init__(self, hub: Hub, home: Path, **environment: str) -> None:
        own = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_CACHE")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=kept | own | environment,
        )

    def send(self, code: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def run(self, code: str) -> Any:
        self.send(code)
        answer = self.receive()
        assert "error" not in answer, answer["error"]
        return answer["told"]

    def refused(self, code: str) -> str:
        self.send(code)
        answer = self.receive()
        assert "error" in answer, answer
        return answer["error"]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def start(server: Hub) -> Iterator[Callable[..., Client]]:
    """Start clients of the hub; they end with the module."""
    clients: list[Client] = []

    def start(home: Path, **environment: str) -> Client:
        clients.append(Client(server, home, **environment))
        return clients[-1]

    yield start
    for client in clients:
        client.end()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture(scope="module")
def writer(start: Callable[..., Client], home: Path, folder: Path) -> Client:
    client = start(home, HF_TOKEN="hf_writer")
    client.run(
        "import os, torch; from clip_surgery_hub import CLIPSurgery; from huggingface_hub import HfApi"
    )
    client.run(f"clip = CLIPSurgery.from_pretrained({str(folder)!r}, depth=2, interpolation='bicubic')")
    client.run(
        "def read(*place, **options):\n"
        "    clip = CLIPSurgery.from_pretrained(*place, **options)\n"
        "    tokens = clip.encode_image(torch.ones(1, 3, 32, 32))\n"
        "    return [clip.method, clip.depth, clip.interpolation, tokens.flatten()[:40].tolist()]"
    )
    return client


@pytest.fixture(scope="module")
def pushed(writer: Client) -> dict[str, str]:
    """Two commits: the first with a tag, the second, with another surgery, on a branch."""
    first = writer.run("told = clip.push_to_hub('someone/clip', license='mit')")
    writer.run("HfApi().create_tag('someone/clip', tag='v1')")
    writer.run(f"raw = CLIPSurgery.from_pretrained({str(clip_folder(writer))!r}, method='none')")
    second = writer.run("told = raw.push_to_hub('someone/clip', revision='raw')")
    return {"first": first, "second": second}


def clip_folder(writer: Client) -> str:
    return writer.run("told = clip.name")


@pytest.mark.slow
def test_a_push_is_one_commit_of_whole_files(server: Hub, pushed: dict[str, str], clip: CLIPSurgery) -> None:
    repository = server.repositories["someone/clip"]
    assert len(repository.commits) == 3  # of the creation, and of two pushes
    files = repository.commits[pushed["first"]]
    assert set(files) >= {
        "README.md",
        "clip_surgery.json",
        "concepts.json",
        "config.json",
        "model.safetensors",
    }
    assert set(files) >= {"preprocessor_config.json", "tokenizer.json", ".gitattributes"}
    assert files["model.safetensors"] in server.large.values()  # verified by its digest on arrival
    assert b"# someone/clip" in files["README.md"] and b"license: mit" in files["README.md"]
    assert json.loads(repository.commits[pushed["second"]]["clip_surgery.json"])["method"] == "none"


@pytest.mark.slow
def test_every_revision_gives_what_was_pushed_there(
    writer: Client, pushed: dict[str, str], clip: CLIPSurgery, folder: Path
) -> None:
    pixels = torch.ones(1, 3, 32, 32)
    wanted = clip.encode_image(pixels).flatten()[:40].tolist()
    raw = CLIPSurgery.from_pretrained(folder, method="none").encode_image(pixels).flatten()[:40].tolist()
    for revision in (None, "main", "v1", pushed["first"]):
        told = writer.run(f"told = read('someone/clip', revision={revision!r})")
        assert told == ["clip_surgery", 2, "bicubic", pytest.approx(wanted, abs=1e-6)]
    for revision in ("raw", pushed["second"]):
        told = writer.run(f"told = read('someone/clip', revision={revision!r})")
        assert told == ["none", 0, "bilinear", pytest.approx(raw, abs=1e-6)]
    kind = "told = type(transformers.AutoModel.from_pretrained('someone/clip', revision='v1')).__name__"
    assert writer.run(f"import transformers; {kind}") == "CLIPModel"


@pytest.mark.slow
def test_what_is_in_the_cache_is_not_downloaded_again_and_needs_no_hub(
    server: Hub, writer: Client, pushed: dict[str, str], start: Callable[..., Client], home: Path
) -> None:
    online = {name: writer.run(f"told = read('someone/clip', revision={name!r})") for name in (None, "raw")}
    server.requests.clear()
    assert writer.run("told = read('someone/clip')") == online[None]
    assert server.requests and not [line for line in server.requests if line.startswith("GET /large/")]
    server.requests.clear()
    offline = start(home, HF_HUB_OFFLINE="1")
    unreachable = start(home, HF_ENDPOINT="http://127.0.0.1:9")
    for client in (offline, unreachable):
        client.run("import torch; from clip_surgery_hub import CLIPSurgery")
        for name, told in online.items():
            client.run(f"clip = CLIPSurgery.from_pretrained('someone/clip', revision={name!r})")
            tokens = "told = clip.encode_image(torch.ones(1, 3, 32, 32)).flatten()[:40].tolist()"
            assert client.run(tokens) == pytest.approx(told[3], abs=1e-6)
            assert client.run("told = [clip.method, clip.depth, clip.interpolation]") == told[:3]
    assert server.requests == []
    refusal = offline.refused("clip.push_to_hub('someone/clip')")
    assert refusal.startswith("OSError: the push to someone/clip failed: huggingface_hub is in offline mode")
    assert "\n" not in refusal


@pytest.mark.slow
def test_a_push_over_another_model_leaves_nothing_of_it_but_the_card(server: Hub, writer: Client) -> None:
    repository = server.repositories["someone/reused"] = Repository()
    kept = {
        ".gitattributes": b"",
        "README.md": b"---\n---\nmine",
        "notes/config.json": b"x",
        "paper.pdf": b"y",
    }
    left_over = ("pytorch_model.bin", "model.safetensors.index.json", "model-00001-of-00002.safetensors")
    old = dict.fromkeys((*left_over, "vocab.json", "adapter_config.json", "config.json"), b"old")
    repository.commit("main", kept | old)
    told = writer.run("clip.push_to_hub('someone/reused'); told = read('someone/reused')")
    assert told[:3] == ["clip_surgery", 2, "bicubic"]
    files = repository.commits[repository.refs["main"]]
    assert len(repository.commits) == 2
    assert {name: files[name] for name in kept} == kept
    assert not set(files) & (set(old) - {"config.json"})


@pytest.mark.slow
def test_pushing_the_same_again_makes_no_difference(server: Hub, writer: Client) -> None:
    writer.run("clip.push_to_hub('someone/twice'); clip.push_to_hub('someone/twice')")
    repository = server.repositories["someone/twice"]
    first, second = list(repository.commits.values())[1:]
    assert first == second


def one_line(refusal: str) -> str:
    assert "\n" not in refusal
    return refusal


@pytest.mark.slow
def test_refused_pushes_say_in_one_line_what_to_do(
    server: Hub, writer: Client, start: Callable[..., Client], home: Path
) -> None:
    refusal = one_line(writer.refused("clip.push_to_hub('another/clip')"))
    assert "the push to another/clip failed: you may not write there; take a token with write" in refusal
    nobody = "clip.push_to_hub('someone/nobody', token='hf_unknown')"
    refusal = one_line(writer.refused(nobody))
    assert "the hub does not know who is pushing; log in with `hf auth login`, or give token=" in refusal
    writer.run("del os.environ['HF_TOKEN']")
    refusal = one_line(writer.refused("clip.push_to_hub('someone/nobody')"))
    assert "log in with `hf auth login`" in refusal
    writer.run("os.environ['HF_TOKEN'] = 'hf_writer'")
    refusal = one_line(writer.refused("clip.push_to_hub('clip')"))
    assert refusal == "ValueError: a repository is named 'owner/name', got 'clip'."
    assert not {"another/clip", "someone/nobody"} & set(server.repositories)


@pytest.mark.slow
def test_refused_downloads_say_in_one_line_what_to_do(
    server: Hub, writer: Client, pushed: dict[str, str]
) -> None:
    server.repositories["someone/gated"] = Repository(gated=True)
    server.repositories["someone/private"] = Repository(private=True)
    for name in ("gated", "private"):
        whole = server.repositories["someone/clip"].commits[pushed["first"]]
        server.repositories[f"someone/{name}"].commit("main", whole)
        assert writer.run(f"told = read('someone/{name}')")[1] == 2
    missing = one_line(writer.refused("read('someone/not-there')"))
    assert "OSError: the model someone/not-there cannot be loaded: check the name" in missing
    missing = one_line(writer.refused("read('someone/clip', revision='v9')"))
    assert "v9" in missing
    writer.run("del os.environ['HF_TOKEN']")
    try:
        for name, reason in (
            ("gated", "gated"),
            ("private", "authenticated"),
            ("not-there", "authenticated"),
        ):
            refusal = one_line(writer.refused(f"read('someone/{name}', revision='main')"))
            assert "OSError" in refusal and reason in refusal, refusal
    finally:
        writer.run("os.environ['HF_TOKEN'] = 'hf_writer'")


@pytest.mark.slow
def test_an_upload_that_is_refused_half_way_commits_nothing(
    server: Hub, writer: Client, folder: Path
) -> None:
    server.refuse_uploads = True
    try:
        fresh = "CLIPSurgery(clip.model.__class__(clip.model.config))"
        refusal = one_line(writer.refused(f"{fresh}.push_to_hub('someone/refused')"))
    finally:
        server.refuse_uploads = False
    assert "the push to someone/refused failed: " in refusal
    repository = server.repositories["someone/refused"]
    assert list(repository.commits.values()) == [{".gitattributes": b"*.safetensors filter=lfs\n"}]
    refusal = one_line(writer.refused("read('someone/refused')"))
    assert "the model someone/refused cannot be loaded" in refusal


@pytest.mark.slow
def test_a_process_killed_half_way_leaves_the_earlier_model_whole(
    server: Hub, writer: Client, start: Callable[..., Client], tmp_path: Path, pushed: dict[str, str]
) -> None:
    before = writer.run("told = read('someone/clip')")
    refs = dict(server.repositories["someone/clip"].refs)
    client = start(tmp_path, HF_TOKEN="hf_writer")
    client.run("import torch; from transformers import CLIPModel; from clip_surgery_hub import CLIPSurgery")
    client.run(f"model = CLIPModel.from_pretrained({writer.run('told = clip.name')!r})")
    client.run("torch.nn.init.zeros_(model.visual_projection.weight)")
    server.hold_uploads = True
    try:
        client.send("CLIPSurgery(model, method='none').push_to_hub('someone/clip')")
        assert server.half_arrived.wait(timeout=300)
        client.end()
    finally:
        server.hold_uploads = False
        server.go_on.set()
    assert server.repositories["someone/clip"].refs == refs
    assert writer.run("told = read('someone/clip')") == before


@pytest.mark.slow
def test_two_pushes_at_the_same_time_do_not_mix(server: Hub, writer: Client) -> None:
    """The second, which has seen the commit before the first, is told to push again."""
    writer.run("clip.push_to_hub('someone/both')")
    repository = server.repositories["someone/both"]
    original = repository.commits[repository.refs["main"]]
    writer.run(
        "import huggingface_hub\n"
        "def info(self, *args, **options):\n"
        "    found = seen(self, *args, **options)\n"
        "    found.sha = before\n"
        "    return found\n"
        f"seen, before = HfApi.model_info, {repository.refs['main']!r}"
    )
    repository.commit("main", original | {"concepts.json": b'{"words": []}'})
    writer.run("HfApi.model_info = info")
    try:
        refusal = one_line(writer.refused("clip.push_to_hub('someone/both')"))
    finally:
        writer.run("HfApi.model_info = seen")
    assert "somebody else pushed at the same time; push again" in refusal
    assert len(repository.commits) == 3


@pytest.mark.slow
def test_the_server_gives_parts_of_files_to_those_who_ask(server: Hub, pushed: dict[str, str]) -> None:
    from urllib.request import Request, urlopen

    url = f"{server.url}/someone/clip/resolve/main/model.safetensors"
    whole = server.repositories["someone/clip"].commits[pushed["first"]]["model.safetensors"]
    with urlopen(Request(url, headers={"Range": "bytes=10-19"})) as answer:
        assert (answer.status, answer.read()) == (206, whole[10:20])


@pytest.mark.slow
def test_the_page_about_the_hub_runs(start: Callable[..., Client], server: Hub, tmp_path: Path) -> None:
    """Line by line, but with what is on this machine in the place of what would have to be downloaded."""
    on_this_machine = {
        '"OWNER/clip_surgery_hub"': f'{str(ROOT)!r}, source="local", model="clip_surgery_tiny"',
        ', "clip_surgery_vit_b16")': ")",
        '"openai/clip-vit-base-patch16"': repr(str(ASSETS / "clip_vit_tiny.scenes")),
        "pretrained=True)\ntokens": "pretrained=False)\ntokens",
        "you/": "someone/",
    }
    shutil.copy(ASSETS / "samples" / "scene_1.png", tmp_path / "photo.jpg")
    client = start(tmp_path / "home", HF_TOKEN="hf_writer", CLIP_SURGERY_CACHE=str(tmp_path / "texts"))
    client.run(f"import os; os.chdir({str(tmp_path)!r})")
    told = []
    page = (ROOT / "docs" / "hub.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        for written, here in on_this_machine.items():
            block = block.replace(written, here)
        told.append(
            client.run(f"{block}\ntold = list(tokens.shape) if 'tokens' in globals() else clip.depth")
        )
    assert told == [6, 6, 5, 5, [1, 1 + 196, 512], [1, 1 + 28 * 28, 128]]
    assert client.run("told = CLIPSurgery.from_pretrained('someone/my-clip').depth") == 5
    assert server.repositories["someone/my-clip"].commits[client.run("told = commit")]
