"""Where patches on an object attend to, by queries and keys as in CLIP, or by values as in CLIP Surgery."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from evaluate_analysis import attention_shares

from clip_surgery_hub.analysis import attention_averages
from tasks.bootstrap import MetricValue, interval, ratio
from tasks.material import Material


def analysis(material: Material) -> Iterator[MetricValue]:
    """Share of the attention that lands on the same object, mean over the deeper half of the blocks."""
    clip = material.clips["clip_surgery"]
    images = [scene.image for scene in material.scenes]
    averages = attention_averages(clip, images, [scene.visible for scene in material.scenes])
    for name, shares in attention_shares(averages).items():
        for variant in ("q-k", "v-v", "spread evenly"):
            values = shares[variant].double().numpy()
            value, low, high = interval(ratio(values, np.ones_like(values)), len(values))
            yield MetricValue(
                variant=variant, name=name, value=value, low=low, high=high, count=averages.objects
            )
