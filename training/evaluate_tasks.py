"""Measure the bundled models at every task, before and after surgery: the metrics of `docs/results.md`.

    python training/evaluate_tasks.py                                   # JSON lines, then the tables
    python training/evaluate_tasks.py --page docs/results.md            # the tables into the page, too
    python training/evaluate_tasks.py --tasks points segmentation --scenes 100

Fresh scenes of three objects of 30 to 50% of the side, native size, exact masks; objects of 30 visible pixels
count. The class set is all concepts unless a metric says otherwise. Every metric comes with the middle 95% of
what 1,000 bootstrap samples of the images give, seeded, so that a second run gives the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tasks import attention, captions, maps, page, presence, recognition, regions
from tasks.about import ABOUT
from tasks.bootstrap import MetricValue
from tasks.material import Material, gather

Task = Callable[[Material], Iterator[MetricValue]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="?", default="clip_vit_tiny.scenes", help="a name, or a folder of transformers"
    )
    parser.add_argument("--sam", default="sam_tiny.scenes", help="a name, a folder or a file of a SAM")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--backgrounds", choices=["training", "held-out"], default="training")
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables are replaced")
    tasks: dict[str, Task] = {
        "explanation": maps.explanation,
        "recognition": recognition.recognition,
        "points": maps.points,
        "presence": presence.presence,
        "segmentation": regions.segmentation,
        "masks": maps.sam_masks,
        "sentence": captions.sentence,
        "analysis": attention.analysis,
    }
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks))
    options = parser.parse_args()
    tasks["masks"] = partial(maps.sam_masks, source=options.sam)
    if options.page and set(options.tasks) != set(tasks):
        parser.error("--page replaces all tables, so it needs all tasks.")

    with torch.inference_mode():
        material = gather(options.checkpoint, options.scenes, options.backgrounds)
        sections = {}
        for name in options.tasks:
            try:
                metrics = list(tasks[name](material))
            except FileNotFoundError as error:
                print(f"{name}: left out. {error}", file=sys.stderr)
                continue
            for metric in metrics:
                print(json.dumps({"task": name, **asdict(metric)}), flush=True)
            sections[name] = page.section(name, ABOUT[name], _command(options, name), metrics)
    print("\n\n".join(sections.values()))
    if options.page:
        page.put_into(options.page, sections)


def _command(options: argparse.Namespace, task: str) -> str:
    """What makes one of the tables again."""
    words = ["python training/evaluate_tasks.py"]
    defaults = {"checkpoint": "clip_vit_tiny.scenes", "sam": "sam_tiny.scenes", "backgrounds": "training"}
    for name, default in defaults.items():
        value = getattr(options, name)
        if value != default:
            words.append(value if name == "checkpoint" else f"--{name} {value}")
    return " ".join([*words, f"--scenes {options.scenes}", f"--tasks {task}"])


if __name__ == "__main__":
    main()
