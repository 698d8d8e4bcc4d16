"""Kinds of damage to the files beside the weights; see `checkpoint_damage`."""

import json
import os
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.checkpoint_damage import (
    MARKER,
    TRANSFORMERS,
    Words,
    change_json,
    config_of,
    garble,
    kind,
    weights_of,
)


@kind()
def config_that_disagrees(rng: random.Random, folder: Path) -> Words:
    path = config_of(folder)
    if path.name == "open_clip_config.json":
        change_json(path, *rng.choice(OPEN_CLIP_DISAGREES))
        return (r"open_clip_(config\.json|model\.safetensors)",)
    changes = [
        ("vision_config.patch_size", rng.choice([4, 16])),
        ("vision_config.image_size", rng.choice([24, 40, 64])),
        ("vision_config.hidden_size", rng.choice([16, 48, 64, 33])),
        ("vision_config.intermediate_size", rng.choice([32, 49])),
        ("vision_config.num_hidden_layers", rng.choice([0, 1, 3, 12])),
        ("vision_config.num_channels", rng.choice([1, 4])),
        ("vision_config.num_attention_heads", rng.choice([5, 7, 64])),
        ("text_config.hidden_size", rng.choice([16, 32, 64])),
        ("text_config.intermediate_size", 41),
        ("text_config.num_hidden_layers", rng.choice([1, 3, 12])),
        ("text_config.vocab_size", rng.choice([99, 101, 49408])),
        ("text_config.max_position_embeddings", rng.choice([19, 77])),
        ("model_type", rng.choice(["altclip", "chinese_clip", "bert", "vit", "clip_vision_model"])),
    ]
    if (folder / "concepts.json").exists():
        changes.append(("projection_dim", rng.choice([15, 17, 512])))
    change_json(path, *rng.choice(changes))
    return (r"config\.json|model\.safetensors",)


OPEN_CLIP_DISAGREES = [
    ("model_cfg.embed_dim", 25),
    ("model_cfg.vision_cfg.layers", 2),
    ("model_cfg.vision_cfg.layers", 4),
    ("model_cfg.vision_cfg.width", 64),
    ("model_cfg.vision_cfg.patch_size", 16),
    ("model_cfg.vision_cfg.image_size", 64),
    ("model_cfg.text_cfg.width", 64),
    ("model_cfg.text_cfg.layers", 3),
    ("model_cfg.text_cfg.vocab_size", 51),
    ("model_cfg.text_cfg.context_length", 77),
    ("model_cfg.text_cfg.heads", 3),
]


@kind()
def absurd_config(rng: random.Random, folder: Path) -> Words:
    path = config_of(folder)
    if path.name == "open_clip_config.json":
        keys = ["vision_cfg.layers", "vision_cfg.width", "vision_cfg.image_size", "vision_cfg.patch_size"]
        keys += [
            "text_cfg.layers",
            "text_cfg.width",
            "text_cfg.vocab_size",
            "text_cfg.context_length",
            "embed_dim",
        ]
        change_json(path, f"model_cfg.{rng.choice(keys)}", rng.choice([10**6, 10**9, 10**12, 10**18, -1, 0]))
        return (r"open_clip_(config\.json|model\.safetensors)",)
    keys = ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"]
    keys = [f"{tower}.{key}" for tower in ("vision_config", "text_config") for key in keys]
    keys += ["vision_config.image_size", "vision_config.patch_size", "vision_config.num_channels"]
    keys += ["text_config.vocab_size", "text_config.max_position_embeddings", "num_labels"]
    name = rng.choice(keys)
    change_json(path, name, rng.choice([10**6, 10**9, 2**31, 10**12, 10**18, 10**40]))
    return (r"config\.json",)


@kind()
def damaged_config(rng: random.Random, folder: Path) -> Words:
    path = config_of(folder)
    if rng.random() < 0.5:
        garble(rng, path)
    elif path.name == "open_clip_config.json":
        wrong = rng.choice(["text", None, [], -8, {}])
        change_json(
            path, rng.choice(["model_cfg", "model_cfg.vision_cfg", "model_cfg.text_cfg.width"]), wrong
        )
    else:
        wrong = rng.choice(["text", [], -8, {"a": 1}])
        values = ["vision_config", "vision_config.hidden_size", "vision_config.patch_size", "model_type"]
        values += ["text_config.vocab_size", "vision_config.layer_norm_eps", "text_config.hidden_act"]
        name = rng.choice(values)
        change_json(path, name, [1, 2] if name == "vision_config" else wrong)
    return (path.name.replace(".", r"\."),)


@kind()
def no_plain_files(rng: random.Random, folder: Path) -> Words:
    """Folders, pipes, broken links and nothing at all where files should be."""
    names = [config_of(folder).name, weights_of(folder).name]
    number = rng.randrange(6)
    if number != 5 and (folder / "tokenizer.json").exists():
        names += ["tokenizer.json", "preprocessor_config.json"]
    path = folder / rng.choice(names)
    path.unlink()
    if number == 0:
        path.mkdir()
    elif number == 1:
        path.symlink_to(path)
    elif number == 2:
        path.symlink_to(folder / "not there")
    elif number == 3:
        os.mkfifo(path)
    elif number == 4:
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n")
    if number == 5 and path.name == "open_clip_config.json":  # nothing tells then that it was to be there
        return (r"config\.json",)
    return (path.name.replace(".", r"\."),)


@kind(*TRANSFORMERS)
def damaged_tokenizer(rng: random.Random, folder: Path) -> Words:
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text())
    number = rng.randrange(7)
    if number < 2:
        garble(rng, path)
    elif number == 2:
        path = folder / "tokenizer_config.json"
        garble(rng, path)
    elif number == 3:
        settings["model"]["vocab"] = {
            word: place + 10 ** rng.choice([3, 6]) for word, place in settings["model"]["vocab"].items()
        }
    elif number == 4:
        settings["model"] = rng.choice([None, {}, {"type": "Magic"}, [], "BPE"])
    elif number == 5:
        settings["model"]["vocab"] = rng.choice([None, "text", 3, {"a": "b"}, {"a": -1}])
    else:
        del settings["model"]
    if number > 2:
        path.write_text(json.dumps(settings))
    return path.name, "tokenizer"


@kind(*TRANSFORMERS)
def damaged_image_processor(rng: random.Random, folder: Path) -> Words:
    path = folder / "preprocessor_config.json"
    number = rng.randrange(5)
    if number == 0:
        garble(rng, path)
    elif number < 3:
        wrong = [[], [0.5], [0.5] * 2, [0.5] * 4, "0.5", ["0.5"] * 3, None, [None] * 3, {}, [[0.5] * 3], True]
        change_json(path, rng.choice(["image_mean", "image_std"]), rng.choice(wrong))
    elif number == 3:
        change_json(path, "image_std", rng.choice([[0.2, 0.0, 0.2], [0, 0, 0], [-0.2] * 3, 0.0, [1e400] * 3]))
    else:
        change_json(path, "resample", rng.choice([99, -1, "bicubic", [3], {}, 2.5]))
    return path.name.replace(".", r"\."), "image processor"


@kind("clip")
def damaged_words(rng: random.Random, folder: Path) -> Words:
    path = folder / "concepts.json"
    if rng.random() < 0.4:
        garble(rng, path)
    else:
        wrong = ["dog", 3, None, [1, 2], ["dog", None], [["dog"]], {"dog": "cat"}, True, [{}]]
        change_json(path, rng.choice(["concepts", "others"]), rng.choice(wrong))
    return (r"concepts\.json",)


@kind(*TRANSFORMERS)
def code_asked_for(rng: random.Random, folder: Path) -> Words:
    """Settings that make transformers import, download or apply something that came with the checkpoint."""
    path = folder / "config.json"
    line = f"open({str(Path.cwd() / MARKER)!r}, 'w').close()\n"
    for name in ("modeling_evil", "configuration_evil", "processing_evil"):
        (folder / f"{name}.py").write_text(line)
    number = rng.randrange(6)
    if number == 0:
        change_json(path, "model_type", rng.choice(["evil", "clip_evil"]))
        names = {"AutoConfig": "configuration_evil.EvilConfig", "AutoModel": "modeling_evil.EvilModel"}
        change_json(path, "auto_map", names)
    elif number == 1:
        where = rng.choice(["", "vision_config.", "text_config."])
        name = rng.choice(["attn_implementation", "_attn_implementation"])
        change_json(path, f"{where}{name}", rng.choice(["evil/attention", "evil/attention@main:mix"]))
    elif number == 2:
        methods = ["bitsandbytes", "gptq", "evil", "awq"]
        change_json(path, "quantization_config", {"quant_method": rng.choice(methods), "load_in_4bit": True})
    elif number == 3:
        wanted = rng.choice(["../outside.safetensors", "other.safetensors", "evil.bin", 3, ["a"]])
        change_json(path, "transformers_weights", wanted)
    elif number == 4:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/else"}))
        save_file({"lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
        if rng.random() < 0.5:
            (folder / "config.json").unlink()
    else:
        path = folder / "preprocessor_config.json"
        change_json(path, "image_processor_type", "EvilProcessor")
        change_json(path, "auto_map", {"AutoImageProcessor": "processing_evil.EvilProcessor"})
    return (path.name.replace(".", r"\."),)
