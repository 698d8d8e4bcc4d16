"""A program for ranks: what each rank of a Trainer is given, a line per image and a file per rank."""

from pathlib import Path


def given(data):
    if not data.startswith("stream:"):
        return data
    from datasets import load_from_disk

    return load_from_disk(data.removeprefix("stream:")).to_iterable_dataset(num_shards=3)


def write_keys(out, ranks, workers, start, batch_size, sources):
    """Read some sources, one after the other, and write what this rank sees of each into a folder of its own.

    A folder after ``stream:`` is that of a saved data set, which is read as a stream of three shards. Workers
    are started by the method ``start``.
    """
    # Not at the top: workers that are spawned run that again, and need none of it.
    import torch
    from lightning import LightningModule, Trainer

    from clip_surgery_hub.images.image_transform import ImageTransform
    from clip_surgery_hub.prediction import ImageDataModule

    class KeysToFiles(LightningModule):
        """Appends the keys of every batch to the rank's file, with the width or the kind of the error."""

        def __init__(self, folder):
            super().__init__()
            self.folder = folder
            self.image_transform = ImageTransform(size=16, patch_size=8)

        def predict_step(self, batch, batch_index):
            assert batch["pixels"].dtype == torch.uint8 and len(batch["pixels"]) == len(batch["keys"])
            rows = zip(batch["keys"], batch["widths"].tolist(), strict=True)
            lines = [f"{key}\t{width}\n" for key, width in rows]
            lines += [f"{error['key']}\t{error['kind']}\n" for error in batch["errors"]]
            with (self.folder / f"{self.global_rank}.txt").open("a", encoding="utf-8") as file:
                file.writelines(lines)

    torch.multiprocessing.set_start_method(start, force=True)
    for number, data in enumerate(sources):
        folder = Path(out) / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        module = ImageDataModule(given(data), batch_size=batch_size, workers=workers)
        strategy = "ddp" if ranks > 1 else "auto"
        trainer = Trainer(
            accelerator="cpu", devices=ranks, strategy=strategy, default_root_dir=folder / "lightning"
        )
        trainer.predict(KeysToFiles(folder), module)
