"""Images of points and masks: the right pixels in the right cell, every point in its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colors

from clip_surgery_hub.plotting.masks import DIMMED, OFF, ON, plot_masks, plot_prompts
from clip_surgery_hub.results.explanation import Points
from clip_surgery_hub.sam.prompts import Prompt, prompt_heatmaps, prompts_of
from tests.support.tiny_sams import explained, random_image

POINTS = Points(torch.tensor([[3, 4], [50, 30]]), torch.tensor([1, 0], dtype=torch.uint8))


def colors_of(scatter: object) -> list[str]:
    return [colors.to_hex(color) for color in scatter.get_facecolors()]


def test_a_mask_is_lit_and_the_rest_is_dark_gray() -> None:
    pixels = random_image(40, 60)
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, 5:20, 10:30] = True
    masks[1] = True
    prompts = [Prompt((name,), POINTS, None) for name in ("costs $5 or $10", "all", "nothing")]
    figure = plot_masks(pixels, prompts, masks, torch.tensor([0.9, 0.5, 0.0]))
    first, *cells = figure.axes
    assert np.array_equal(first.images[0].get_array(), pixels)
    gray = DIMMED * pixels.mean(-1, keepdims=True)
    for cell, mask, prompt in zip(cells, masks, prompts, strict=True):
        drawn = np.asarray(cell.images[0].get_array())
        assert np.array_equal(drawn[mask], pixels[mask])
        assert np.abs(drawn[~mask] - np.broadcast_to(gray, pixels.shape)[~mask]).max(initial=0) <= 1
        assert cell.get_title() == prompt.name
        assert cell.get_xlim() == (-0.5, 59.5) and cell.get_ylim() == (39.5, -0.5)
        scatter = cell.collections[-1]
        assert scatter.get_offsets().tolist() == POINTS.xy.tolist() and colors_of(scatter) == [ON, OFF]
    assert [cell.texts[0].get_text() for cell in cells] == [
        "score 0.90, area 12%",
        "score 0.50, area 100%",
        "score 0.00, area 0%",
    ]
    # The outline runs half a pixel around the mask; where there is no border there is none.
    (outline,) = cells[0].collections[0].get_paths()
    assert outline.vertices.min(0).tolist() == [9.5, 4.5] and outline.vertices.max(0).tolist() == [29.5, 19.5]
    assert [len(cell.collections) for cell in cells] == [2, 1, 1]


def test_labels_and_notes_of_masks_keep_apart() -> None:
    prompts = [Prompt((name,), POINTS, None) for name in ("a very long description " * 4, "bear", "x" * 60)]
    figure = plot_masks(
        random_image(90, 30), prompts, torch.zeros(3, 90, 30, dtype=torch.bool), torch.ones(3)
    )
    renderer = figure.canvas.get_renderer()
    boxes = [cell.title.get_window_extent(renderer) for cell in figure.axes]
    boxes += [cell.texts[0].get_window_extent(renderer) for cell in figure.axes]
    boxes += [figure.legends[0].get_window_extent(renderer)]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.overlaps(cell.get_window_extent(renderer)) for cell in figure.axes)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_without_prompts_the_image_stands_alone() -> None:
    figure = plot_masks(random_image(40, 60), [], torch.zeros(0, 40, 60, dtype=torch.bool), torch.zeros(0))
    assert [cell.get_title() for cell in figure.axes] == ["image"]


def test_large_images_are_reduced_before_they_are_drawn() -> None:
    masks = torch.zeros(1, 3000, 4000, dtype=torch.bool)
    masks[0, 1000:2000, 1000:3000] = True
    figure = plot_masks(
        np.zeros((3000, 4000, 3), np.uint8), [Prompt(("a",), POINTS, None)], masks, torch.ones(1)
    )
    cell = figure.axes[1]
    assert max(cell.images[0].get_array().shape) < 2500
    (outline,) = cell.collections[0].get_paths()
    assert outline.vertices.min(0) == pytest.approx([1000, 1000], abs=4)
    assert outline.vertices.max(0) == pytest.approx([3000, 2000], abs=4)


def test_points_of_a_combination_lie_on_each_of_its_texts() -> None:
    explanation = explained(random_image(40, 60))
    prompts = prompts_of(explanation, [["text 0"], ["text 0", "text 2"]], keep_absent=True)
    cells = plot_prompts(explanation, prompts).axes[1:4]
    assert [len(cell.collections) for cell in cells] == [2, 0, 1]
    for cell in (cells[0], cells[2]):
        assert cell.collections[-1].get_offsets().tolist() == prompts[1].points.xy.tolist()


def test_the_heatmap_of_a_combination_is_the_maximum_of_its_texts() -> None:
    explanation = explained(random_image(40, 60))
    prompts = prompts_of(explanation, [["text 1"], ["text 0", "text 2"]], keep_absent=True)
    heatmaps = explanation.heatmaps()[0]
    found = prompt_heatmaps(explanation, prompts)
    assert torch.equal(found[0], heatmaps[1])
    assert torch.equal(found[1], torch.maximum(heatmaps[0], heatmaps[2]))
    assert prompt_heatmaps(explanation, []).shape == (0, 40, 60)


@pytest.mark.filterwarnings("ignore:'text 1' does not seem")
@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (["0+1", "0"], ["0"]),
        (["0", "0+1"], ["0"]),
        (["0+1", "1+0"], ["0"]),
        (["0+1", "2", "0+2", "2+1+0"], ["0", "2", "0+2"]),
        (["1"], []),
    ],
)
def test_what_is_left_of_a_combination_is_asked_once(asked: list[str], made: list[str]) -> None:
    explanation = replace(explained(random_image(40, 60)), presence=torch.tensor([[1.0, 0.2, 1.0]]))
    prompts = prompts_of(explanation, [[f"text {part}" for part in one.split("+")] for one in asked])
    assert [prompt.name.replace("text ", "") for prompt in prompts] == made
