"""Kinds of damage to the files that hold weights; see `checkpoint_damage`."""

import json
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoint_damage import (
    MARKER,
    TRANSFORMERS,
    Evil,
    Words,
    change_header,
    change_tensors,
    garble,
    in_shards,
    kind,
    pickled,
    weights_of,
)


@kind()
def truncated_safetensors(rng: random.Random, folder: Path) -> Words:
    path = weights_of(folder)
    size = path.stat().st_size
    os.truncate(
        path, rng.choice([0, 1, 7, 8, 9, size // 2, size - 1, rng.randrange(size), rng.randrange(size)])
    )
    return path.name, "empty|damaged"


@kind()
def lying_safetensors_header(rng: random.Random, folder: Path) -> Words:
    def lie(header: dict[str, Any]) -> None:
        names = sorted(header)
        name, other = rng.sample(names, 2)
        entry, begin, end = header[name], *header[name]["data_offsets"]
        number = rng.randrange(12)
        if number == 0:
            entry["dtype"] = rng.choice(["F31", "", "f32", 32, None, ["F32"], "I4"])
        elif number == 1:
            entry["shape"] = rng.choice([[-1], "3", None, [1.5], [True], {}, [2**80], [1] * 40])
        elif number == 2:
            entry["shape"] = [*entry["shape"], 2]
        elif number == 3:
            entry["data_offsets"] = rng.choice([[], [0], [end, begin], [-8, 0], None, ["0", "4"], [0, 4, 8]])
        elif number == 4:
            entry["data_offsets"] = [begin + 10**15, end + 10**15]
        elif number == 5:
            header[other]["data_offsets"] = [begin, end]
        elif number == 6:
            entry["data_offsets"] = [begin + 4, end + 4]
        elif number == 7:
            header[name] = rng.choice([None, 1, [], "F32", {}])
        elif number == 8:
            del entry[rng.choice(sorted(entry))]
        elif number == 9:
            header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [begin, begin + 4]}
        elif number == 10:
            last = max(header, key=lambda name: header[name]["data_offsets"])
            del header[last]
        else:
            entry["dtype"] = {"F32": "F64"}.get(entry["dtype"], "F32")

    if rng.random() < 0.8:
        return change_header(folder, lie), "damaged"
    path = weights_of(folder)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    start = rng.randrange(8, 8 + length - 20)
    damaged = [
        whole[:start] + b"\xff" * 20 + whole[start + 20 :],
        whole[:8] + b"[" * length + whole[8 + length :],
        whole + rng.randbytes(rng.randrange(1, 99)),
        rng.randbytes(len(whole)),
    ]
    path.write_bytes(rng.choice(damaged))
    return path.name, "damaged"


@kind()
def wrong_shapes(rng: random.Random, folder: Path) -> Words:
    names: list[str] = []

    def reshape(tensors: dict[str, torch.Tensor]) -> None:
        names.append(rng.choice(sorted(name for name in tensors if tensors[name].ndim)))
        tensor = tensors[names[0]]
        ways = [tensor[None], tensor[:-1], torch.cat([tensor, tensor]), tensor[..., :-1], tensor[:0]]
        if tensor.ndim > 1:
            ways += [tensor.flatten(), tensor[0]]
        if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]:
            ways.append(tensor.mT)
        tensors[names[0]] = rng.choice(ways)

    file = change_tensors(folder, reshape)
    return file, "shape|lacks" if "open_clip" in file else names[0]


@kind()
def missing_keys(rng: random.Random, folder: Path) -> Words:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for name in rng.sample(sorted(tensors), rng.choice([1, 1, 2, 5, len(tensors) - 1])):
            del tensors[name]

    return change_tensors(folder, remove), "lacks|is not there|blocks|has no|shape"


@kind()
def keys_too_many(rng: random.Random, folder: Path) -> Words:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        name = rng.choice(sorted(tensors))
        news = [
            name.replace(".0.", ".7.") if ".0." in name else f"{name}_2",
            f"lora.{name}.lora_A",
            f"{name}.more",
            "classifier.weight",
            "decoder.layers.0.bias",
            "",
            "x" * 5000,
            "line\nbreak",
            "position_ids.weight",
        ]
        for new in rng.sample(news, rng.choice([1, 1, 2, 4])):
            tensors[new] = torch.zeros(rng.choice([(), (3,), (2, 2)]))

    return change_tensors(folder, add), "no place|blocks"


@kind()
def values_not_finite(rng: random.Random, folder: Path) -> Words:
    names: list[str] = []

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        if rng.random() < 0.5:
            for name, tensor in tensors.items():
                tensors[name] = tensor.to(rng.choice([torch.float16, torch.bfloat16, torch.float64]))
        names.append(rng.choice(sorted(tensors)))
        values = tensors[names[0]].view(-1)
        for _ in range(rng.choice([1, 1, 1, len(values)])):
            values[rng.randrange(len(values))] = rng.choice([float("nan"), float("inf"), -float("inf")])

    file = change_tensors(folder, spoil)
    return file, "NaN or infinite", "weight" if "open_clip" in file else names[0]


@kind()
def whole_numbers(rng: random.Random, folder: Path) -> Words:
    names: list[str] = []

    def convert(tensors: dict[str, torch.Tensor]) -> None:
        names.extend(rng.sample(sorted(tensors), rng.choice([1, 1, len(tensors)])))
        dtype = rng.choice([torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool])
        for name in names:
            tensors[name] = tensors[name].to(dtype)

    return change_tensors(folder, convert), "float"


@kind()
def absurd_weights(rng: random.Random, folder: Path) -> Words:
    path, number = weights_of(folder), rng.randrange(6)
    data = path.stat().st_size - 8 - struct.unpack("<Q", path.read_bytes()[:8])[0]
    if number == 0:
        path.write_bytes(struct.pack("<Q", rng.choice([2**63 - 1, 2**40, 2**64 - 1])) + path.read_bytes()[8:])
        return path.name, "damaged"
    if number == 1:  # as long as it says, full of nothing
        length = rng.choice([2**25, 2**30, 2**33])
        path.write_bytes(struct.pack("<Q", length))
        os.truncate(path, 8 + length)
        return path.name, "damaged|cannot be read"  # where there is no room even to map it
    if number == 2:
        sizes = rng.choice([[2**62, 4], [2**31, 2**31], [2**32, 2**32, 2**32, 2**32]])
        more = {"dtype": "F16", "shape": sizes, "data_offsets": [data, data + 8]}
        return change_header(folder, lambda header: header.update(more=more), data + 8), "damaged"
    if number == 3:
        names = {f"vision_model.more.{i}": torch.zeros(0) for i in range(rng.choice([5_000, 20_000]))}
        return change_tensors(folder, lambda tensors: tensors.update(names)), "holds"
    numbers = rng.choice([2**27, 2**29, 2**34, 2**38])
    if number == 4:
        more = {"dtype": "F16", "shape": [numbers // 8, 8], "data_offsets": [data, data + 2 * numbers]}
        return change_header(folder, lambda header: header.update(more=more), data + 2 * numbers), "."

    def grow(header: dict[str, Any]) -> None:
        last = header[max(header, key=lambda name: header[name]["data_offsets"])]
        begin = last["data_offsets"][0]
        last |= {"dtype": "F16", "shape": [numbers], "data_offsets": [begin, begin + 2 * numbers]}

    def reach(header: dict[str, Any]) -> int:
        return max(entry["data_offsets"][0] for entry in header.values()) + 2 * numbers

    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    header.pop("__metadata__", None)
    return change_header(folder, grow, reach(header)), "."


@kind()
def pickle_with_code(rng: random.Random, folder: Path) -> Words:
    marker = str(Path.cwd() / MARKER)
    line = f"open({marker!r}, 'w').close()"
    evil = rng.choice(
        [
            Evil(os.system, f"touch {marker}"),
            Evil(exec, line),
            Evil(eval, line),
            Evil(open, marker, "w"),
            Evil(os.mkdir, marker),
            Evil(Path.touch, Path(marker)),
            Evil(getattr, Evil(os.mkdir, marker), "x"),
            Evil(torch.save, {}, marker),
            Evil(shutil.copy, sys.executable, marker),
        ]
    )
    tensors: dict[Any, Any] = load_file(weights_of(folder))
    name = rng.choice(sorted(tensors))
    content = rng.choice(
        [evil, tensors | {name: evil}, tensors | {"more": [evil]}, [tensors, evil], {"state_dict": evil}]
    )
    path = pickled(folder, content, legacy=rng.random() < 0.3, protocol=rng.choice([2, 3, 4]))
    way = rng.random()
    if way < 0.2:
        path.write_bytes(pickle.dumps(content))
    elif way < 0.4:  # under the name of the safe format
        new = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        path = path.rename(folder / new)
    return path.name.replace(".", r"\."), "damaged"


@kind()
def damaged_pickle(rng: random.Random, folder: Path) -> Words:
    tensors: dict[Any, Any] = dict(load_file(weights_of(folder)))
    name = rng.choice(sorted(tensors))
    number = rng.randrange(8)
    contents = {
        0: list(tensors.values()),
        1: tensors | {name: rng.choice(["text", 3, None, np.float64(1.0)])},
        2: tensors | {rng.choice([7, None, ("a", "b")]): torch.zeros(1)},
        3: tensors | {name: torch.zeros(()).expand(10 ** rng.choice([6, 9, 12]))},
        4: tensors | {name: rng.choice([torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")])},
        5: {},
    }
    path = pickled(folder, contents.get(number, tensors), legacy=number != 7 and rng.random() < 0.4)
    if number == 6:
        os.truncate(path, rng.randrange(path.stat().st_size))
    if number == 7:  # a bomb of zeros
        with zipfile.ZipFile(path) as whole:
            parts = [(entry, whole.read(entry)) for entry in whole.infolist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for entry, content in parts:
                packed.writestr(entry.filename, content)
            packed.writestr("archive/data/bomb", bytes(10**7))
    return path.name.replace(".", r"\."), "damaged|empty"


@kind(*TRANSFORMERS)
def lying_index_of_shards(rng: random.Random, folder: Path) -> Words:
    index, shards = in_shards(folder)
    settings = json.loads(index.read_text())
    weight_map = settings["weight_map"]
    name, shard = rng.choice(sorted(weight_map.items()))
    other = rng.choice([path.name for path in shards if path.name != shard])
    outside = folder.parent / "outside.safetensors"
    shutil.copy(folder / shard, outside)
    number = rng.randrange(8)
    if number == 0:
        garble(rng, index)
    elif number == 1:
        weight_map[name] = other
    elif number == 2:
        weight_map[name] = rng.choice(
            ["../outside.safetensors", str(outside), f"./{shard}", f"sub/../{shard}", "..", "", "/", 3, None]
        )
    elif number == 3:
        weight_map[name] = rng.choice(
            ["config.json", "model.bin", "no such\nfile.safetensors", "x.safetensors"]
        )
    elif number == 4:
        weight_map["vision_model.more"] = shard
    elif number == 5:
        settings["weight_map"] = rng.choice([[], {}, None, "text", [name, shard]])
    elif number == 6:
        (folder / shard).unlink()
    if 0 < number < 7:
        index.write_text(json.dumps(settings))
    if number == 7:
        text = index.read_text()
        index.write_text(text.replace('"weight_map": {', f'"weight_map": {{"{name}": "{other}", ', 1))
    return (r"model\.safetensors\.index\.json",)


@kind(*TRANSFORMERS)
def damaged_shards(rng: random.Random, folder: Path) -> Words:
    index, shards = in_shards(folder, count=rng.choice([2, 3, 5]))
    shard = rng.choice(shards)
    tensors, number = load_file(shard), rng.randrange(7)
    name = rng.choice(sorted(tensors))
    words: Words = (shard.name,)
    if number == 0:
        os.truncate(shard, rng.randrange(shard.stat().st_size))
        return words
    if number == 1:
        shard.unlink()
        shard.mkdir()
        return words
    if number == 2:
        del tensors[name]
        words = (shard.name, name, "lacks")
    elif number == 3:
        other = next(path for path in shards if path != shard)
        save_file(load_file(other) | {name: tensors[name]}, other)
        words = (shard.name, other.name, name)
    elif number == 4:
        tensors[name] = tensors[name][None, :1]
        words = (shard.name, name, "shape")
    elif number == 5:
        tensors[name] = torch.full_like(tensors[name], float("nan"))
        words = (shard.name, name, "NaN")
    else:
        tensors["more.weight"] = tensors[name].clone()
        words = (index.name, "more.weight", "no place")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, shard)
    return words
