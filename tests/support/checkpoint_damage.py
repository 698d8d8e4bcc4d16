"""Small whole checkpoints of every format, and what the kinds of damage to them share.

A kind is a function of a seeded generator and a folder: it damages the folder, and returns regular
expressions that the refusal must match, among them the name of the file. It is given folders of
several formats in turn.
"""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from tests.support.open_clip_models import CASES, open_clip_model, write_folder
from tests.support.tokenizers import letters_tokenizer, siglip_tokenizer

MARKER = "code_was_run"
SHARED = {"num_attention_heads": 2, "num_hidden_layers": 2}
VISION = SHARED | {"hidden_size": 32, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
TEXT = SHARED | {"hidden_size": 24, "intermediate_size": 40, "vocab_size": 100, "max_position_embeddings": 20}
Words = tuple[str, ...]
Kind = Callable[[random.Random, Path], Words]
KINDS: dict[str, Kind] = {}
# Which formats a kind is about; every other is about all of them.
ONLY: dict[str, tuple[str, ...]] = {}


# Checkpoints that are whole.


def write_clip(folder: Path) -> None:
    text = TEXT | {"bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99}
    config = CLIPConfig(vision_config=VISION, text_config=text, projection_dim=16)
    for part in (CLIPModel(config), letters_tokenizer(20), CLIPImageProcessorPil()):
        part.save_pretrained(folder)
    words = {"concepts": ["dog", "potted plant"], "others": ["grass"]}
    (folder / "concepts.json").write_text(json.dumps(words))


def write_siglip(folder: Path) -> None:
    config = SiglipConfig(
        vision_config=VISION | {"hidden_size": 24, "intermediate_size": 40}, text_config=TEXT
    )
    for part in (SiglipModel(config), siglip_tokenizer(limit=20), SiglipImageProcessorPil()):
        part.save_pretrained(folder)


def write_open_clip(folder: Path) -> None:
    model_cfg = CASES["ViT-B-16"]
    normalize = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    write_folder(folder, model_cfg, open_clip_model(model_cfg).state_dict(), preprocess_cfg=normalize)


FORMATS: dict[str, Callable[[Path], None]] = {
    "clip": write_clip,
    "siglip": write_siglip,
    "open_clip": write_open_clip,
}
TRANSFORMERS = ("clip", "siglip")


def kind(*formats: str) -> Callable[[Kind], Kind]:
    def register(damage: Kind) -> Kind:
        KINDS[damage.__name__] = damage
        ONLY[damage.__name__] = formats or tuple(FORMATS)
        return damage

    return register


# What the kinds share.


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def config_of(folder: Path) -> Path:
    return next(path for name in ("config.json", "open_clip_config.json") if (path := folder / name).exists())


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> str:
    """Rewrites the weights; their name as a regular expression."""
    path = weights_of(folder)
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path.name.replace(".", r"\.")


def change_header(folder: Path, change: Callable[[dict[str, Any]], None], data: int | None = None) -> str:
    """Rewrites what the weights say of themselves, and the length of their data if that is given."""
    path = weights_of(folder)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    header.pop("__metadata__", None)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    if data is not None:
        os.truncate(path, 8 + len(text) + data)  # what is beyond the end is a hole that takes no room
    return path.name.replace(".", r"\.")


def change_json(path: Path, keys: str, value: Any) -> None:
    """Sets a value of a file by the names that lead to it, with dots between."""
    settings = json.loads(path.read_text())
    *outer, last = keys.split(".")
    inner = settings
    for key in outer:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(settings))


def pickled(folder: Path, content: Any = None, *, legacy: bool = False, protocol: int = 2) -> Path:
    """Puts a file of torch.save in the place of the safetensors file."""
    path = weights_of(folder)
    content = dict(load_file(path)) if content is None else content
    path.unlink()
    name = "pytorch_model.bin" if path.name == "model.safetensors" else "open_clip_pytorch_model.bin"
    torch.save(content, folder / name, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return folder / name


def in_shards(folder: Path, count: int = 3) -> tuple[Path, list[Path]]:
    """Spreads the weights over several files; the index and the files."""
    path = weights_of(folder)
    tensors = load_file(path)
    path.unlink()
    names, shards, weight_map = sorted(tensors), [], {}
    for number in range(count):
        shard = folder / f"model-{number + 1:05}-of-{count:05}.safetensors"
        held = names[number::count]
        save_file({name: tensors[name] for name in held}, shard)
        weight_map |= dict.fromkeys(held, shard.name)
        shards.append(shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index, shards


def garble(rng: random.Random, path: Path) -> None:
    """Makes a file of JSON one that cannot be read, in a way that is drawn."""
    whole = path.read_bytes()
    path.write_bytes(
        rng.choice(
            [
                whole[: rng.randrange(1, len(whole.rstrip()))],
                b"",
                b" \n",
                rng.randbytes(200),
                whole.replace(b"{", b"[", 1),
                whole.replace(b":", b"", 1),
                b"[" * 10**5,
                b"[1, 2, 3]",
                b"null",
                b"<!DOCTYPE html><html>not found</html>",
                whole.rstrip()[:-1] + b', "same": 1, "same": 2}',
                whole.rstrip()[:-1] + b', "number": NaN}',
                whole.rstrip()[:-1] + b', "text": "\xff\xfe"}',
            ]
        )
    )


class Evil:
    """What makes an unpickler call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call
