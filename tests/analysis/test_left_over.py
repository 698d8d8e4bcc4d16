"""What an analysis leaves on the model: nothing."""

import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import attention_analysis, redundancy_analysis
from clip_surgery_hub.analysis.attention_results import KINDS
from clip_surgery_hub.towers.tower import Tower
from tests.support.analyses import TEXTS, pixels_of, random_image, surgeon
from tests.support.model_state import walk


def attend(clip: CLIPSurgery) -> object:
    return attention_analysis(clip, random_image(), patch=(1, 1))


def compare(clip: CLIPSurgery) -> object:
    return redundancy_analysis(clip, random_image(), TEXTS)


@pytest.mark.parametrize("analyze", [attend, compare])
@pytest.mark.parametrize("method", ["clip_surgery", "none"])
def test_nothing_is_left_on_the_model(
    tiny_clip: CLIPModel, method: str, analyze: Callable[[CLIPSurgery], object]
) -> None:
    clip = surgeon(tiny_clip, method=method)
    tiny_clip.vision_model.encoder.layers[3].register_forward_hook(lambda *_: None)
    before = walk(tiny_clip)
    analyze(clip)
    assert walk(tiny_clip) == before


@pytest.mark.parametrize("analyze", [attend, compare])
def test_nothing_is_left_when_the_call_fails_half_way(
    clip: CLIPSurgery, monkeypatch: pytest.MonkeyPatch, analyze: Callable[[CLIPSurgery], object]
) -> None:
    block: Any = clip.tower.blocks[2]
    monkeypatch.setattr(type(block.mlp), "forward", _out_of_memory)
    before = walk(clip.model)
    with pytest.raises(MemoryError, match="half way"):
        analyze(clip)
    assert walk(clip.model) == before


def _out_of_memory(module: Any, hidden_states: Tensor) -> Tensor:
    raise MemoryError("half way")


def test_a_model_that_passes_hooks_by_is_refused_and_left_as_it_was(
    clip: CLIPSurgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = clip.encode_image(pixels_of(random_image()))
    monkeypatch.setattr(type(clip.tower), "encode", lambda self, pixels, interpolation: tokens)
    before = walk(clip.model)
    for analyze in (attend, compare):
        with pytest.raises(RuntimeError, match="one call of CLIPVisionModel was to be recorded.* told of 0"):
            analyze(clip)
    assert walk(clip.model) == before


def test_blocks_of_another_kind_are_refused(clip: CLIPSurgery) -> None:
    """The towers of other families have no q_proj, k_proj and v_proj to look at."""
    parts = {field.name: getattr(clip.tower, field.name) for field in fields(Tower)}
    clip.tower = type("OtherTower", (Tower,), dict.fromkeys(Tower.__abstractmethods__))(**parts)
    with pytest.raises(TypeError, match="CLIPVisionModel cannot be looked into: only towers built of CLIP's"):
        attend(clip)


def test_calls_from_other_threads_are_neither_heard_nor_disturbed(clip: CLIPSurgery) -> None:
    patches = [(0, 0), (1, 3), (3, 5)]
    alone = [attention_analysis(clip, random_image(seed=seed), patch=one) for seed, one in enumerate(patches)]
    failures: list[str] = []

    def work(number: int) -> None:
        for _ in range(5):
            found = attention_analysis(clip, random_image(seed=number), patch=patches[number])
            for kind in KINDS:
                if not torch.allclose(found.weights[kind], alone[number].weights[kind], atol=1e-6):
                    failures.append(f"{number} {kind}")
            if not torch.allclose(
                found.cosines_to_cls["mlp"], alone[number].cosines_to_cls["mlp"], atol=1e-4
            ):
                failures.append(f"{number} cosines")

    before = walk(clip.model)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert walk(clip.model) == before
