"""Fixtures that every test file may use, and the wall that keeps the tests off the network."""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.paths import GOLDEN

# Read by huggingface_hub when it is imported, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

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
