"""Peak memory of `explain` against a plain forward of the same model, each in a process of its own."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Comparison

STATUS = Path("/proc/self/status")


def megabytes(field: str) -> float:
    """A field of this process's status in MB (Linux): ``VmRSS`` now, ``VmHWM`` the most since a reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak(run: Callable[[], object]) -> dict[str, float]:
    """Resident memory in MB before the call, and its highest value during the call.

    The kernel's high-water mark is reset first, so that what loading the model took does not count.
    """
    if not STATUS.exists():  # not Linux: the mark of the whole life of the process, kB (bytes on macOS)
        run()
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return {"before": 0.0, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    Path("/proc/self/clear_refs").write_text("5")
    before = megabytes("VmRSS")
    run()
    return {"before": before, "peak": megabytes("VmHWM")}


def in_a_process(way: str, *, module: str = "benchmarks.memory") -> dict[str, float]:
    """What `peak` says of one way of a module, in a fresh process with an empty cache of embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CLIP_SURGERY_CACHE": folder}
        command = [sys.executable, "-m", module, way]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def rows() -> Iterator[Comparison]:
    """The rows of the table about memory."""
    explain, plain = in_a_process("explain"), in_a_process("plain")
    what, against = "peak memory of explain, 512 px, 59 texts, cold", "plain forward of the same image"
    ratio = explain["peak"] / plain["peak"]
    yield Comparison(what, against, explain["peak"], plain["peak"], ratio, 1.3, "MB")
    ours, baseline = (result["peak"] - result["before"] for result in (explain, plain))
    yield Comparison(
        "the same without what the loaded model takes", against, ours, baseline, ours / baseline, 1.3, "MB"
    )


def main() -> None:
    """Run one of the two ways in this process and print what `peak` says of it."""
    import numpy as np
    import torch

    from benchmarks.texts import TEXTS, word_tokenizer
    from clip_surgery_hub import create_model

    clip = create_model("clip_vit_base_patch16.openai", pretrained=False, device="cpu")
    clip.tokenizer = word_tokenizer()
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    if sys.argv[1] == "explain":
        found = peak(lambda: clip.explain(image, TEXTS, size=512))
    else:
        from clip_surgery_hub import remove_surgery

        plain = remove_surgery(clip.model)
        pixels = torch.zeros(1, 3, 512, 512)
        with torch.inference_mode():
            found = peak(lambda: plain.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
