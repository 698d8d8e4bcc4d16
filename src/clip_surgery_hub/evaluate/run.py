"""A checkpoint, a data set and a task, put together to an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from clip_surgery_hub.evaluate.cases import draw_cases, extreme_cases
from clip_surgery_hub.evaluate.data import EvaluationData
from clip_surgery_hub.evaluate.datasets import DataSet
from clip_surgery_hub.evaluate.evaluator import SurgeryEvaluator
from clip_surgery_hub.evaluate.parts import EvaluationFolder
from clip_surgery_hub.evaluate.recorder import PartRecorder, measure_recorded
from clip_surgery_hub.evaluate.report import class_bars, save_table
from clip_surgery_hub.evaluate.result import Evaluation, evaluation_of
from clip_surgery_hub.evaluate.tasks import Task, TaskOptions
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.windows import window_cells
from clip_surgery_hub.model import CLIPSurgery
from clip_surgery_hub.prediction.run_settings import weights_digest
from clip_surgery_hub.prediction.trainer import quiet_trainer
from clip_surgery_hub.sam.backends import Sam

__all__ = ["evaluate"]

_CASES = 4
"""So many best and worst images are drawn."""


def evaluate(
    clip: CLIPSurgery,
    dataset: DataSet,
    task: Task,
    variants: Sequence[Variant],
    *,
    out: str | Path,
    limit: int | None = None,
    templates: str | Sequence[str] | None = "paper",
    size: int | None = None,
    max_side: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    sam: Sam | None = None,
    sam_name: str | None = None,
    batch_size: int = 8,
    workers: int = 0,
    seconds: float = 60.0,
    draw: bool = True,
    callbacks: Sequence[Callback] = (),
    **trainer_options: Any,
) -> Evaluation | None:
    """Measure variants of a checkpoint on a data set; the same call resumes one that was killed.

    Args:
        clip: a checkpoint under any method; every variant is read as if it were under none, and it is left
            as it was, also when the evaluation fails.
        dataset: see `datasets.open_dataset`.
        task: see `tasks.get_task`.
        variants: see `variants.variants_of`.
        out: the folder of the evaluation.
        limit: so many images, from the first; None: all.
        templates: of the class names, see `CLIPSurgery.encode_text`.
        size: short side in pixels at which images are read; None: the checkpoint's own.
        max_side: longest side in pixels; None: 4 x ``size``.
        window: side of a sliding window in pixels; None: the image at once.
        stride: its step in pixels; None: half of the window.
        sam: a segmentation model for "interact"; None leaves its masks out.
        sam_name: what the settings call it.
        batch_size: images that are read together where they have one size.
        workers: processes per rank that decode.
        seconds: the longest that a measured image waits to be recorded.
        draw: also draw bars per class and the best and worst images of every variant, some seconds each.
        callbacks: more of Lightning's.
        trainer_options: of Lightning's Trainer, such as ``devices``, ``num_nodes``, ``strategy``.

    The folder also gets ``results.json`` and ``results.md``.

    Returns:
        What was measured, on rank 0; None on the other ranks.

    Raises:
        ValueError, RunError: for a task that the data set's truth does not allow, or settings that
            contradict each other, before anything is written.
    """
    if task.name not in dataset.tasks:
        raise ValueError(
            f"{dataset.title} does not tell what the task {task.name!r} needs; measure "
            f"{' or '.join(dataset.tasks)} there."
        )
    classes = dataset.classes
    texts = [text for synonyms in classes.synonyms for text in synonyms]
    owner = [number for number, synonyms in enumerate(classes.synonyms) for _ in synonyms]
    image_transform = clip.image_transform(size=size, max_side=max_side)
    cells = None if window is None else window_cells(window, stride, patch=clip.tower.patch_size)
    task_options = TaskOptions(classes=len(classes.names), background=classes.background, sam=sam)
    settings = {
        "dataset": dataset.key,
        "split": dataset.split,
        "images_in_it": len(dataset),
        "task": task.name,
        "model": clip.name,
        "weights": weights_digest(clip.model),
        "variants": [one.name for one in variants],
        "texts": [list(synonyms) for synonyms in classes.synonyms],
        "templates": templates if templates is None or isinstance(templates, str) else list(templates),
        "size": image_transform.size,
        "max_side": max_side,
        "window": window,
        "stride": stride,
        "interpolation": clip.interpolation,
        "sam": sam_name,
    }
    folder = EvaluationFolder(Path(out), settings)
    folder.check()
    callbacks = [PartRecorder(folder, seconds=seconds), *callbacks]
    trainer = quiet_trainer(callbacks, **trainer_options | {"use_distributed_sampler": False})
    # Only now, for the texts of a large data set take minutes.
    evaluator = SurgeryEvaluator(
        clip,
        task=task,
        task_options=task_options,
        variants=variants,
        class_set=clip.encode_text(texts, templates),
        owner=torch.tensor(owner),
        window=cells,
    )
    data = EvaluationData(dataset, image_transform, limit=limit, batch_size=batch_size, workers=workers)
    trainer.test(evaluator, data, verbose=False)
    if not trainer.is_global_zero:
        return None
    # Nothing was measured here where nothing was left to measure, or where other processes did it and ended.
    measurements = evaluator.measurements or measure_recorded(folder, evaluator, data.numbers)
    evaluation = evaluation_of(
        measurements,
        task,
        task_options,
        dataset,
        settings=folder.settings,
        images=len(folder.images().intersection(data.numbers)),
    )
    evaluation.save(folder.path)
    save_table(evaluation, folder.path)
    if draw:
        _draw(evaluation, evaluator, dataset, image_transform, folder.path)
    return evaluation


def _draw(
    evaluation: Evaluation,
    evaluator: SurgeryEvaluator,
    dataset: DataSet,
    image_transform: ImageTransform,
    folder: Path,
) -> None:
    """Bars per class, and the best and worst images, of every variant."""
    for variant in evaluation.variants:
        class_bars(evaluation, variant).savefig(folder / f"classes_{variant.name}.png", dpi=120)
        best, worst = extreme_cases(evaluation, variant, _CASES)
        for name, cases in (("best", best), ("worst", worst)):
            if cases:
                figure = draw_cases(cases, evaluator, variant, dataset, image_transform)
                figure.savefig(folder / f"{name}_{variant.name}.png", dpi=120)
