"""The notebook runs from top to bottom in a kernel of its own, and finds what the sample image shows."""

import importlib.util
import json
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from clip_surgery_hub.images.masks import rle_to_mask
from clip_surgery_hub.results.explanation import PRESENT
from tests.support.paths import EXAMPLES, ROOT

NOTEBOOK = EXAMPLES / "demo.ipynb"
SAMPLE = 3  # scene_4.png

# What is asked of the notebook's final namespace, printed as JSON by a cell behind its last.
QUESTION = """
from clip_surgery_hub.images.masks import mask_to_rle

print(json.dumps({
    "texts": texts,
    "heatmaps": explanation.heatmaps()[0].tolist(),
    "presence": explanation.presence[0].tolist(),
    "points": [[prompt.points.xy.tolist(), prompt.points.labels.tolist()] for prompt in prompts],
    "masks": [mask_to_rle(mask) for mask in found.masks[0]],
    "combined": mask_to_rle(combined.masks[0][0]),
    "segments": index_map.tolist(),
    "labels": [label.text for label in labels],
    "strongest": [sentence.words[number].text for number in sentence.top(2)],
    "own_attention": attention.same_object_elsewhere("query_key").tolist(),
    "value_attention": attention.same_object_elsewhere("value_value").tolist(),
    "contrasts": {variant: redundancy.msc(variant) for variant in ("raw", "both")},
}))
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The notebook with its outputs, and the question as its last cell."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(QUESTION))
    own = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for setting in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(setting, str(own / setting.lower()))
        NotebookClient(notebook, timeout=600, kernel_name="python3", store_widget_state=False).execute(
            cwd=str(own)
        )
    return notebook


@pytest.fixture(scope="module")
def answer(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    (output,) = notebook.cells[-1].outputs
    return json.loads(output.text)


@pytest.fixture(scope="module")
def truth(answer: dict[str, Any]) -> list[np.ndarray]:
    """The pixels of each text's object ``[H, W]``, as the scene was drawn."""
    spec = importlib.util.spec_from_file_location("make_samples", ROOT / "training" / "make_samples.py")
    make_samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_samples)
    scene = make_samples.sample_scene(SAMPLE)
    return [scene.mask(text) for text in answer["texts"]]


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union."""
    return (found & true).sum() / (found | true).sum()


def unpacked(rle: dict[str, Any]) -> np.ndarray:
    return rle_to_mask(rle).numpy()


def test_it_is_committed_as_it_was_written() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_every_task_draws_an_image(notebook: nbformat.NotebookNode) -> None:
    drawn = {
        cell.id
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    }
    tasks = {"heatmaps", "points", "masks", "combined", "segments", "labels", "sentence"}
    assert drawn == tasks | {"attention", "redundancy"}


@pytest.mark.slow
def test_the_maps_and_points_lie_on_the_objects(answer: dict[str, Any], truth: list[np.ndarray]) -> None:
    for heatmap, (xy, labels), true in zip(answer["heatmaps"], answer["points"], truth, strict=False):
        heat = np.asarray(heatmap)
        assert heat[true].mean() > heat[~true].mean() + 0.2
        on = [bool(true[y, x]) for (x, y), label in zip(xy, labels, strict=True) if label]
        off = [bool(true[y, x]) for (x, y), label in zip(xy, labels, strict=True) if not label]
        assert np.mean(on) >= 0.5 > np.mean(off)  # of the sunflower's two points one lies beside it


@pytest.mark.slow
def test_the_absent_text_is_known_to_be_absent(answer: dict[str, Any]) -> None:
    *present, absent = answer["presence"]
    assert min(present) >= PRESENT > absent


@pytest.mark.slow
def test_the_masks_are_those_of_the_objects(answer: dict[str, Any], truth: list[np.ndarray]) -> None:
    found = [overlap(unpacked(mask), true) for mask, true in zip(answer["masks"], truth, strict=True)]
    assert min(found) > 0.5
    _, briefcase, fish = truth
    assert overlap(unpacked(answer["combined"]), briefcase | fish) > 0.5


@pytest.mark.slow
def test_segments_labels_and_words_name_what_is_there(
    answer: dict[str, Any], truth: list[np.ndarray]
) -> None:
    segments = np.asarray(answer["segments"])
    for number, true in enumerate(truth):
        assert (segments[true] == number).mean() > 3 * (segments[~true] == number).mean()
    assert set(answer["labels"]) & set(answer["texts"])
    assert set(answer["strongest"]) == {"fish", "briefcase"}


@pytest.mark.slow
def test_the_analyses_show_what_surgery_changes(answer: dict[str, Any]) -> None:
    assert np.mean(answer["value_attention"]) > np.mean(answer["own_attention"])
    assert answer["contrasts"]["both"] > answer["contrasts"]["raw"]
