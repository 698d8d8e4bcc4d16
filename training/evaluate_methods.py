"""Measure every method at every task on synthetic scenes of three difficulties: part of `docs/results.md`.

    python training/evaluate_methods.py --out runs/methods --page docs/results.md
    python training/evaluate_methods.py --out runs/methods --tasks explain --splits plain --limit 100

Killed, the same command resumes where it was.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.evaluate import TASKS, Evaluation, evaluate, get_task, open_dataset, variants_of
from clip_surgery_hub.evaluate.report import metrics_table
from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.sam.loading import load_sam

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
SPLITS = {
    "plain": "three objects of 30 to 50% of the side, backgrounds of the training",
    "crowded": "eight to twelve objects of 15 to 30% that overlap",
    "held_out": "the objects of the first on backgrounds of generators that training never used",
}
METHODS_OF = ("none", *(name for name in METHODS if name != "none"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", default="clip_vit_tiny.scenes")
    parser.add_argument("--sam", default="sam_tiny.scenes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--page", type=Path, help="a Markdown page whose part is replaced")
    options = parser.parse_args()

    clip = CLIPSurgery.from_pretrained(options.checkpoint, device="cpu")
    sam = load_sam(options.sam)
    sections = []
    for name in options.tasks:
        task = get_task(name)
        # The image-level embedding is the same under every method.
        methods = ["clip_surgery"] if name == "recognize" else METHODS_OF
        features = ["plain", "surgery"] if name == "recognize" else ["auto"]
        variants = variants_of(
            methods, blocks=len(clip.tower.blocks), features=features, automatic=task.automatic
        )
        lines = [f"### {task.title}", "", task.about]
        for split in options.splits:
            found = evaluate(
                clip,
                open_dataset("scenes", split=split),
                task,
                variants,
                out=options.out / f"{name}_{split}",
                limit=options.limit,
                sam=sam if name == "interact" else None,
                sam_name=options.sam if name == "interact" else None,
                batch_size=50,
                draw=False,
                accelerator="cpu",
                devices=1,
            )
            assert found is not None
            lines += ["", f"**{split}**: {SPLITS[split]}. {told(found)}", "", metrics_table(found)]
        sections.append("\n".join(lines))
        print(sections[-1], flush=True)
    if options.page:
        put_into(options.page, "\n\n".join(sections))


def told(found: Evaluation) -> str:
    """Which method is best by the task's primary metric, in a sentence."""
    best = max(found.variants, key=lambda variant: found.of(variant)[found.task.primary_metric].value)
    value = found.of(best)[found.task.primary_metric].value
    return f"Best {found.task.primary_metric}: {best.method} ({best.features} features), {value:.1f}."


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    before = page.read_text(encoding="utf-8")
    if BEGIN not in before or END not in before:
        raise SystemExit(f"{page} has no place for these metrics: put {BEGIN} and {END} into it.")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    page.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n\n{text}\n\n{END}", before, flags=re.S))


if __name__ == "__main__":
    main()
