"""Train the bundled SAM on synthetic scenes: one command, resumes where it was stopped.

    python training/train_sam.py --out runs/small
    python training/export_sam.py runs/small runs/small/sam
    python training/train_sam.py --out runs/sam --start runs/small/sam --size 112 --steps 1000
    python training/export_sam.py runs/sam src/clip_surgery_hub/assets/sam_tiny.scenes
    python training/evaluate_sam.py src/clip_surgery_hub/assets/sam_tiny.scenes

It begins with the blocks of a trained CLIP (`--clip`), at that one's size, or with a SAM that was trained on
smaller images (`--start`, `--size`), where a step costs less. The same command continues a stopped run from
its last checkpoint, which is written every 100 steps; with other `--steps` than before the rates fall to zero
sooner or later. Everything is drawn from `--seed`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sam import OPTIMIZERS, TrainSam
from sam_data import PromptBatches
from sam_from_clip import build_sam, closeness, grow_sam
from torch.utils.data import DataLoader

ASSETS = Path(__file__).resolve().parents[1] / "src" / "clip_surgery_hub" / "assets"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clip", type=Path, default=ASSETS / "clip_vit_tiny.scenes")
    parser.add_argument("--start", type=Path, default=None, help="a trained SAM, instead of --clip")
    parser.add_argument("--size", type=int, default=112, help="side in pixels of what begins with --start")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=24, help="images per step")
    parser.add_argument("--channels", type=int, default=128, help="width of prompts and decoder")
    parser.add_argument("--heads", type=int, default=4, help="of the decoder's attention")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="of AdamW")
    parser.add_argument("--encoder-rate", type=float, default=0.01, help="of Muon, for the CLIP's blocks")
    parser.add_argument("--decoder-rate", type=float, default=0.02, help="of Muon, for the decoder")
    parser.add_argument("--warmup", type=int, default=40, help="steps")
    parser.add_argument(
        "--decay", type=float, default=0.5, help="share of steps over which the rate falls to zero"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="32-true", choices=["bf16-mixed", "32-true"])
    parser.add_argument("--stop", type=int, default=None, help="end after this step, as if interrupted there")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    lightning.seed_everything(options.seed)
    if options.start:
        model = grow_sam(options.start, options.size)
    else:
        model = build_sam(options.clip, channels=options.channels, heads=options.heads)
        print(f"patch features agree with the CLIP's to a cosine of {closeness(model, options.clip):.3f}")
    task = TrainSam(
        model,
        steps=options.steps,
        rate=options.rate,
        encoder_rate=options.encoder_rate,
        decoder_rate=options.decoder_rate,
        warmup=options.warmup,
        decay=options.decay,
    )
    model.config.save_pretrained(options.out)
    (options.out / "options.json").write_text(json.dumps(vars(options), default=str, indent=1))

    last = options.out / "last.ckpt"
    begun = last.exists()
    first = int(torch.load(last, weights_only=False)["global_step"]) // OPTIMIZERS if begun else 0
    batches = PromptBatches(
        model.config.vision_config.image_size,
        batch=options.batch,
        seed=options.seed,
        first=first,
        steps=options.steps,
    )
    trainer = lightning.Trainer(
        max_steps=OPTIMIZERS * (options.stop or options.steps),
        max_epochs=-1,  # a run that ended at `--stop` can be resumed, too
        precision=options.precision,
        logger=CSVLogger(options.out, name="", version="log", flush_logs_every_n_steps=20),
        log_every_n_steps=10,
        callbacks=[
            ModelCheckpoint(
                dirpath=options.out,
                filename="last",
                every_n_train_steps=100 * OPTIMIZERS,
                enable_version_counter=False,
            )
        ],
        enable_progress_bar=False,
    )
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=options.workers,
        prefetch_factor=4 if options.workers else None,
    )
    trainer.fit(task, loader, ckpt_path=last if begun else None, weights_only=False)
    trainer.save_checkpoint(last)


if __name__ == "__main__":
    main()
