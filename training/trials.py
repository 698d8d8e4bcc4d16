"""Compare vision towers by what they make of a drawing style that they never saw, at equal cost.

    python training/trials.py --leave-out noto
    python training/trials.py --leave-out noto --depth 8 --steps 348 145

A trial learns from the loss over words alone: the words' anchors stand for texts, and there is no text tower.
First come images of one object on a small grid, then scenes at native size, so many steps of each; for a
fair comparison a tower that costs half takes twice as many. One line of JSON says how it names and finds
objects of its own styles and of the style left out; the metrics are those of `evaluate.py`, with anchors as
texts.
"""

from __future__ import annotations

import argparse
import json
import time

import lightning
import numpy as np
import torch
from clip import MEAN, STD, TrainClip, build_clip, multi_positive
from data import objects_shown, training_look, training_world
from evaluate import draw, evaluate, pixels_of
from tokenizer import learn_tokenizer
from torch.nn import functional as F
from transformers import CLIPImageProcessor

from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.scenes import World, draw_scene, load_sprites

BATCH = {True: 256, False: 128}
"""Images of one object in a step, and scenes of several."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--leave-out", default="noto", help="the drawing style that the trial never sees")
    parser.add_argument(
        "--steps", type=int, nargs=2, default=[464, 193], help="of one object, then of several"
    )
    parser.add_argument("--size", type=int, default=80, help="native side in pixels")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--redraw", type=float, default=0.04)
    parser.add_argument("--color", type=float, default=0.15)
    parser.add_argument("--warp", type=float, default=0.0)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def train(options: argparse.Namespace, styles: tuple[str, ...]) -> TrainClip:
    """A trained tower with its anchors."""
    tokenizer = learn_tokenizer(["a"], vocabulary=300, context=8)  # CLIPModel wants a text tower
    model = build_clip(
        tokenizer, size=options.size, patch=options.patch, width=options.width, depth=options.depth
    )
    task = TrainClip(model, [], steps=1)
    look = training_look(color=options.color, redraw=options.redraw, warp=options.warp)
    small = round(0.4 * options.size / options.patch) * options.patch
    single = training_world(small, (1, 1), (0.6, 1.0), styles, look)
    several = training_world(options.size, (1, 5), (0.2, 0.6), styles, look)
    optimizers = task.configure_optimizers()  # they leave the text tower alone, which gets no gradient
    first, steps = options.steps[0], sum(options.steps)
    for step in range(steps):
        one = step < first
        scenes = [
            draw_scene((options.seed, step, index), single if one else several) for index in range(BATCH[one])
        ]
        pixels = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        image = task.encode_image(pixels, keep=1.0 if one else 0.7)
        anchors = F.normalize(task.anchors[: task.concepts], dim=-1)
        named = model.logit_scale.exp() * image @ anchors.T
        shown = objects_shown(scenes, load_sprites().concepts)
        alike = torch.ones_like(named[:, :1])
        loss = multi_positive(named, shown, alike) + 0.5 * multi_positive(
            named.T, shown.T, torch.ones(len(named))
        )
        factor = min(1.0, (step + 1) / 40, 2 * (1 - step / steps))
        for optimizer, rate in zip(optimizers, (task.muon_rate, task.rate), strict=True):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = rate * factor
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    return task.eval()


@torch.inference_mode()
def measure(task: TrainClip, options: argparse.Namespace, styles: tuple[str, ...]) -> dict[str, float]:
    """Metrics in percent on scenes of these styles."""
    model, side = task.model, options.size
    processor = CLIPImageProcessor(image_mean=MEAN, image_std=STD)
    anchors = unit_length(task.anchors[: task.concepts])
    scenes = draw(options.scenes, World(size=(side, side), styles=styles))
    metrics = evaluate(
        model,
        processor,
        anchors,
        scenes,
        method="clip_surgery",
        depth=METHODS["clip_surgery"].resolve_depth(None, options.depth),
        features="surgery",
    )
    alone = draw(options.scenes, World(size=(side, side), styles=styles, objects=(1, 1), scale=(0.4, 0.6)))
    image = model.get_image_features(pixels_of(alone, processor)).pooler_output
    guess = (unit_length(image) @ anchors.T).argmax(1)
    named = [load_sprites().concepts[int(i)] in scene.words for i, scene in zip(guess, alone, strict=True)]
    return {"named": round(100 * float(np.mean(named)), 1), **metrics}


def main() -> None:
    options = parse()
    lightning.seed_everything(options.seed)
    known = load_sprites().styles
    if options.leave_out not in known:
        raise SystemExit(f"--leave-out {options.leave_out}: the styles are {', '.join(known)}")
    own = tuple(style for style in known if style != options.leave_out)
    began = time.process_time()
    task = train(options, own)
    seconds = time.process_time() - began
    parameters = sum(p.numel() for p in task.model.vision_model.parameters())
    found = {
        "seconds of processors": round(seconds),
        "parameters": parameters,
        "own styles": measure(task, options, own),
        options.leave_out: measure(task, options, (options.leave_out,)),
    }
    print(json.dumps({**vars(options), **found}), flush=True)


if __name__ == "__main__":
    main()
