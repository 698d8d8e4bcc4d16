"""``clip-surgery label``: which of the texts an image shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import gather_background, gather_texts
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery


@options.with_request
def label(
    request: options.Request,
    text: options.Text = None,
    text_file: options.TextFile = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels each image gets.")] = 5,
    threshold: Annotated[
        float | None, typer.Option(help="The least score of a label; --top-k is left aside then.")
    ] = None,
    background: options.Background = None,
) -> None:
    """Say which of the texts each image shows, the surest first.

    Writes a folder per image: a panel of the image and its labels as bars, and a JSON of the labels,
    their scores and their presence.
    """

    def prepare() -> Task:
        texts = gather_texts(text or [], text_file)
        others = gather_background(background, texts)
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"A threshold is a number that scores can reach, got {threshold}.")

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.cli.outputs import write_labels, write_results
            from clip_surgery_hub.cli.records import record

            explanation = clip.explain(path, texts, size=request.size, background=others)
            chosen = {"threshold": threshold} if threshold is not None else {"top_k": top_k}
            whole = record(explanation, image=path)
            per_text = {one["text"]: one for one in whole.pop("texts")}
            (found,) = explanation.labels(**chosen)
            whole["labels"] = [
                {"text": one.text, "score": one.score, "presence": per_text[one.text]["presence"]}
                for one in found
            ]
            if folder is not None:
                write_results(folder, whole, lambda place: write_labels(explanation, found, place))
            return whole

        return Task("label", "labeling", texts, answer, labels)

    run(request, prepare)


def labels(record: Record) -> str:
    """The labels and their scores."""
    return ", ".join(f"{one['text']} {one['score']:.3f}" for one in record["labels"]) or "no labels"
