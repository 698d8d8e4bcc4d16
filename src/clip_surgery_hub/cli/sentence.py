"""``clip-surgery sentence``: which words of a caption an image responds to, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery


@options.with_request
def sentence(
    request: options.Request,
    caption: Annotated[str, typer.Option(help="A sentence, such as 'a dog on grass'.")] = "",
) -> None:
    """Show which words of a caption each image responds to, and where.

    Writes a folder per image: a panel with the words shaded by their scores and a heatmap of each, the raw
    maps, and a JSON with words, tokens and scores.
    """

    def prepare() -> Task:
        if not caption.strip():
            raise ValueError("No caption was given. Write a sentence: --caption 'a dog on grass'.")

        def begin(clip: CLIPSurgery) -> None:
            """Say what is wrong with the caption, and which of its words the model does not know."""
            from clip_surgery_hub.results.sentence import read_caption

            read_caption(clip.model, clip.tokenizer, caption)
            clip.encode_text(caption, templates=None)

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.cli.outputs import write_results, write_sentence
            from clip_surgery_hub.cli.records import sentence_record

            explanation = clip.sentence(path, caption, size=request.size)
            result = sentence_record(explanation, image=path)
            if folder is not None:
                write_results(folder, result, lambda place: write_sentence(explanation, place))
            return result

        return Task("sentence", "reading", (), answer, strongest, begin=begin)

    run(request, prepare)


def strongest(record: Record) -> str:
    """The strongest words and their scores."""
    words = [record["words"][number] for number in record["top"]]
    return ", ".join(f"{one['text']} {one['score']:.3f}" for one in words)
