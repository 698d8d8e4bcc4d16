"""A CLIP under surgery, and what both analyses of it are given and find."""

import numpy as np
import pytest
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import AttentionAnalysis, RedundancyAnalysis
from tests.support.analyses import attended, compared, masks_of_objects, surgeon, three_images


@pytest.fixture
def clip(tiny_clip: CLIPModel) -> CLIPSurgery:
    """4 blocks of 4 heads, two of them under surgery; 40 x 60 px are read as 4 x 6 patches."""
    return surgeon(tiny_clip, depth=2)


@pytest.fixture
def masks() -> list[dict[str, np.ndarray]]:
    return masks_of_objects()


@pytest.fixture
def images() -> list[np.ndarray]:
    return three_images()


@pytest.fixture
def attention(clip: CLIPSurgery) -> AttentionAnalysis:
    return attended(clip)


@pytest.fixture
def redundancy(clip: CLIPSurgery) -> RedundancyAnalysis:
    return compared(clip)
