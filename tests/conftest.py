"""Fixtures that every test file may use, and the wall that keeps the tests off the network."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from clip_surgery_hub import methods
from clip_surgery_hub.cli import app
from clip_surgery_hub.methods import METHODS
from tests.support.command_line import CommandResult, Run
from tests.support.paths import GOLDEN

LOCAL_HOSTS = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}


class NetworkBlocked(OSError):
    """A test tried to reach another machine."""


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL_HOSTS:
            raise NetworkBlocked(f"tests must not use the network, but one connects to {address!r}")
        return connect(self, address)

    return guarded


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Only this machine can be reached: loopback and unix sockets stay open for gloo."""
    look_up = socket.getaddrinfo
    local_hosts = LOCAL_HOSTS | {socket.gethostname()}

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in local_hosts:
            raise NetworkBlocked(f"tests must not use the network, but one looks up {name!r}")
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", _guarded(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(scope="session", autouse=True)
def caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the user's text cache nor the user's settings decide what a test sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_SURGERY_CACHE", str(tmp_path_factory.mktemp("text-cache")))
        patch.setenv("MPLBACKEND", "agg")
        yield


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    """Inputs and results of the published computation on the checkpoint of `golden_clip`."""
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture
def golden_clip() -> CLIPModel:
    """The small random CLIP behind the golden values: 8 vision blocks, width 128, patch 8, 64 px, float32."""
    return CLIPModel.from_pretrained(GOLDEN / "checkpoint", dtype=torch.float32).eval()


@pytest.fixture
def tiny_clip() -> CLIPModel:
    """A random CLIP to modify: 4 vision blocks, width 64, patch 8, 32 px (4 x 4 patches), projection 32.

    Biases and norms are random too, so that a formula which forgets one of them gives other numbers.
    """
    shared = {"intermediate_size": 128, "projection_dim": 32, "hidden_act": "quick_gelu"}
    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "bos_token_id": 98,
        "eos_token_id": 99,
        "pad_token_id": 99,
    }
    config = CLIPConfig(vision_config=vision | shared, text_config=text | shared, projection_dim=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "logit_scale":
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture
def restored_methods() -> Iterator[None]:
    """Methods that a test registers are gone after it."""
    known = dict(METHODS)
    yield
    methods.method._METHODS.clear()
    methods.method._METHODS.update(known)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random CLIP of 2 blocks (8 px patches, 32 px) and a tokenizer that spells in bytes."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=77)
    shared = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16}
    start, end = len(words) - 2, len(words) - 1
    text = {"vocab_size": len(words), "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        vision_config=shared | {"hidden_size": 32, "image_size": 32, "patch_size": 8},
        text_config=shared | text | {"hidden_size": 16},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two images in `images`: a.png (60 x 40) and b.jpg (30 x 50)."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name, size in (("a.png", (40, 60, 3)), ("b.jpg", (50, 30, 3))):
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "images" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def command(*arguments: object) -> CommandResult:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app([str(argument) for argument in arguments], prog_name="clip-surgery")
        return CommandResult(int(end.value.code or 0), *capsys.readouterr())

    return command
