"""Train the bundled CLIP on synthetic scenes: one command, any accelerator, resumes where it was stopped.

    python training/train.py --out runs/scenes
    python training/train.py --out runs/without-noto --leave-out noto
    python training/export.py runs/scenes src/clip_surgery_hub/assets/clip_vit_tiny.scenes

The same command continues a stopped run from its last checkpoint. Everything is drawn from `--seed`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lightning
import numpy as np
import torch
from clip import CONTEXT, TrainClip, build_clip
from data import SceneBatches, Stage, prompts, training_look, training_world, words_of_the_world
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from tokenizer import learn_tokenizer
from torch.utils.data import DataLoader
from transformers import CLIPModel, CLIPTokenizer

from clip_surgery_hub.scenes import World, describe, draw_scene, load_sprites


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=80, help="native side in pixels")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--keep", type=float, default=0.6, help="share of patches kept in the middle stages")
    parser.add_argument(
        "--until",
        type=float,
        nargs=3,
        default=[0.36, 0.52, 0.93],
        help="shares of the steps that end stages",
    )
    parser.add_argument(
        "--decay", type=float, default=0.6, help="share of steps over which the rate falls to zero"
    )
    parser.add_argument("--redraw", type=float, default=0.1)
    parser.add_argument("--color", type=float, default=0.15)
    parser.add_argument("--warp", type=float, default=0.08)
    parser.add_argument("--leave-out", default=None, help="a drawing style that training never sees")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--precision",
        default="32-true",
        choices=["32-true", "bf16-mixed"],
        help="bf16-mixed is faster where the processor or accelerator has bfloat16 arithmetic",
    )
    parser.add_argument(
        "--start",
        type=Path,
        default=None,
        help="begin with the weights of this folder instead of random ones",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the vision tower (needs a C++ compiler on CPUs)"
    )
    return parser.parse_args()


def stages_of(options: argparse.Namespace) -> list[Stage]:
    """From one large object on a small image to the whole world at native size.

    Objects keep about the same size in pixels while the images grow, and small images have a window of
    the native positions, so what was learnt stays of use. In the last stages but one a random share of the
    patches is dropped, which makes a step cheaper.
    """
    styles = tuple(style for style in load_sprites().styles if style != options.leave_out)
    if options.leave_out and len(styles) == len(load_sprites().styles):
        raise SystemExit(f"--leave-out {options.leave_out}: the styles are {', '.join(styles)}")

    def stage(
        until: float,
        size: int,
        objects: tuple[int, int],
        scale: tuple[float, float],
        keep: float = 1.0,
        look: float = 1.0,
    ) -> Stage:
        variation = training_look(look, color=options.color, redraw=options.redraw, warp=options.warp)
        world = training_world(size, objects, scale, styles, variation)
        # Images of one object are small and cost little.
        batch = 2 * options.batch if objects == (1, 1) else options.batch
        return Stage(until=until, world=world, keep=keep, batch=batch)

    native, patch = options.size, options.patch
    small, middle = (round(native * share / patch) * patch for share in (0.4, 0.7))
    first, second, third = options.until
    return [
        stage(first, small, (1, 1), (0.6, 1.0)),
        stage(second, middle, (1, 3), (0.35, 0.75)),
        stage(third, native, (1, 5), (0.2, 0.6), options.keep),
        stage(1.0, native, (1, 5), (0.1, 0.6)),
    ]


def tokenizer_of(folder: Path) -> CLIPTokenizer:
    """The run's tokenizer, learnt from captions the first time."""
    if not (folder / "tokenizer.json").exists():
        rng = np.random.default_rng(0)
        words = list(words_of_the_world())
        texts = [text for _ in range(40) for text in prompts(words, rng)] + words * 20
        world = World(size=(8, 8), objects=(1, 5), twins=0.2)
        texts += [describe(draw_scene((0, index), world), rng) for index in range(3000)]
        learn_tokenizer(texts, vocabulary=1200, context=CONTEXT).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    lightning.seed_everything(options.seed)
    if options.start and not (options.out / "tokenizer.json").exists():
        CLIPTokenizer.from_pretrained(options.start).save_pretrained(options.out)
    tokenizer = tokenizer_of(options.out)
    stages = stages_of(options)
    model = build_clip(
        tokenizer, size=options.size, patch=options.patch, width=options.width, depth=options.depth
    )
    if options.start:
        started = CLIPModel.from_pretrained(options.start, dtype=torch.float32)
        model.load_state_dict(started.state_dict())
    task = TrainClip(model, stages, steps=options.steps, decay=options.decay, compiled=options.compile)
    if options.start:
        words = tokenizer(list(words_of_the_world()), padding=True, return_tensors="pt")
        task.put_anchors_at(words.input_ids)
    model.config.save_pretrained(options.out)
    (options.out / "options.json").write_text(json.dumps(vars(options), default=str, indent=1))

    last = options.out / "last.ckpt"
    first = int(torch.load(last, weights_only=False)["global_step"]) // 2 if last.exists() else 0
    batches = SceneBatches(tokenizer, stages, seed=options.seed, first=first, steps=options.steps)
    loader = DataLoader(batches, batch_size=None, num_workers=options.workers, prefetch_factor=6)
    trainer = lightning.Trainer(
        max_steps=2 * options.steps,
        max_epochs=-1,  # so that a run that came to its end can be resumed by more steps
        precision=options.precision,
        logger=CSVLogger(options.out, name="", version="log", flush_logs_every_n_steps=20),
        log_every_n_steps=20,
        callbacks=[
            ModelCheckpoint(
                dirpath=options.out, filename="last", every_n_train_steps=200, enable_version_counter=False
            )
        ],
        enable_progress_bar=False,
    )
    trainer.fit(task, loader, ckpt_path=last if last.exists() else None, weights_only=False)
    trainer.save_checkpoint(last)


if __name__ == "__main__":
    main()
