"""The process that tries to load broken checkpoints of every kind, and whole ones between them."""

import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clip_surgery_hub.model import CLIPSurgery
from tests.support import (
    damaged_settings,  # noqa: F401
    damaged_weights,  # noqa: F401
)
from tests.support.checkpoint_damage import (
    FORMATS,
    KINDS,
    MARKER,
    ONLY,
    TRANSFORMERS,
    Evil,
    change_json,
    change_tensors,
    in_shards,
    pickled,
)

SECONDS = 30  # the limit of a case, by contract

# Changes that must be taken as transformers takes them.


def with_position_ids(folder: Path) -> None:
    """Old versions of transformers saved these buffers, which new ones ignore."""
    ids = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    change_tensors(folder, lambda tensors: tensors.update(ids))


def with_a_pickle_beside(folder: Path) -> None:
    torch.save(Evil(os.mkdir, str(Path.cwd() / MARKER)), folder / "pytorch_model.bin")


def with_code_beside(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(Path.cwd() / MARKER)!r}, 'w').close()\n")
    change_json(folder / "config.json", "auto_map", {"AutoModel": "modeling_evil.EvilModel"})


def as_a_pickle(folder: Path) -> None:
    pickled(folder)


def as_a_legacy_pickle(folder: Path) -> None:
    pickled(folder, legacy=True)


def as_shards(folder: Path) -> None:
    in_shards(folder)


def linked(folder: Path) -> None:
    """As the cache of the hub has its files."""
    for path in list(folder.iterdir()):
        path.rename(folder.parent / f"blob_{path.name}")
        path.symlink_to(folder.parent / f"blob_{path.name}")


HARMLESS: dict[str, Callable[[Path], None]] = {
    harmless.__name__: harmless
    for harmless in (
        with_position_ids,
        with_a_pickle_beside,
        with_code_beside,
        as_a_pickle,
        as_a_legacy_pickle,
        as_shards,
        linked,
    )
}


def features(folder: Path) -> torch.Tensor:
    clip = CLIPSurgery.from_pretrained(folder, device="cpu")
    return clip.encode_image(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))


def out_of_time(*_: Any) -> None:
    raise TimeoutError(f"not done after {SECONDS} s")


def attempt(folder: Path) -> dict[str, Any]:
    """What comes of loading a folder: the error and its type; a load that hangs is a TimeoutError."""
    signal.alarm(SECONDS)
    try:
        CLIPSurgery.from_pretrained(folder, device="cpu")
        return {"type": "loaded", "error": ""}
    except BaseException as error:
        return {"type": type(error).__name__, "error": str(error)} | {
            "is_right_type": isinstance(error, ValueError | OSError) and not isinstance(error, TimeoutError)
        }
    finally:
        signal.alarm(0)


def main(place: Path, names: list[str], each: int) -> None:
    """Tries every case of some kinds in `place`, and writes what came of them into answers.json there."""
    torch.manual_seed(0)
    signal.signal(signal.SIGALRM, out_of_time)
    os.chdir(place)
    whole = {name: place / "whole" / name for name in FORMATS}
    for name, write in FORMATS.items():
        whole[name].mkdir(parents=True)
        write(whole[name])
    wanted = {name: features(folder) for name, folder in whole.items()}
    cases, controls = [], []

    def fresh(name: str) -> Path:
        shutil.rmtree(place / "case", ignore_errors=True)
        shutil.copytree(whole[name], place / "case" / "checkpoint")
        return place / "case" / "checkpoint"

    def control(name: str, change: Callable[[Path], None] | None = None) -> None:
        folder = fresh(name)
        if change is not None:
            change(folder)
        # Of other files the weights lie elsewhere in memory, and products are summed in another order.
        allowed = 0.0 if change is None else 1e-6
        difference = float((features(folder) - wanted[name]).abs().max())
        label = f"{name} {change.__name__ if change else 'untouched'}"
        controls.append({"name": label, "is_same": difference <= allowed, "difference": difference})

    for change in HARMLESS.values():
        for name in TRANSFORMERS:
            control(name, change)
    for kind_name in names:
        for number in range(each):
            rng = random.Random(f"{kind_name} {number}")
            name = ONLY[kind_name][number % len(ONLY[kind_name])]
            folder = fresh(name)
            words = KINDS[kind_name](rng, folder)
            answer = attempt(folder)
            ran = os.path.lexists(place / MARKER)
            cases.append(
                answer | {"kind": kind_name, "number": number, "format": name, "words": words, "ran": ran}
            )
            if number % 5 == 0:
                control(name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (place / "answers.json").write_text(json.dumps({"cases": cases, "controls": controls, "peak": peak}))


if __name__ == "__main__":
    where, count, *chosen = sys.argv[1:]
    main(Path(where), chosen or list(KINDS), int(count))
