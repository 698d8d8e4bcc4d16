"""What the tests of the command line share: a checkpoint, a working folder with images, a way to run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from clip_surgery_hub.cli import app


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


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str


Run = Callable[..., CommandResult]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def command(*arguments: object) -> CommandResult:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app([str(argument) for argument in arguments], prog_name="clip-surgery")
        return CommandResult(int(end.value.code or 0), *capsys.readouterr())

    return command


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
