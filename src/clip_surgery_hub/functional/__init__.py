"""The mathematics of CLIP Surgery as pure functions: tensors in, tensors out, on any device and dtype.

Notation of the paper (arXiv 2304.05653): ``F`` image tokens, ``T`` text embeddings, both of unit length, so
that ``s_nt = F_n . T_t`` is their cosine similarity. Token 0 is CLS, the others are
the patches in reading order.
"""

from clip_surgery_hub.functional.maps import highest_text, map_to_boxes, similarity_map
from clip_surgery_hub.functional.points import combined_points, similarity_to_points
from clip_surgery_hub.functional.scale import unit_length
from clip_surgery_hub.functional.surgery import (
    classification_scores,
    feature_surgery,
    multilabel_scores,
    presence,
)

__all__ = [
    "classification_scores",
    "combined_points",
    "feature_surgery",
    "highest_text",
    "map_to_boxes",
    "multilabel_scores",
    "presence",
    "similarity_map",
    "similarity_to_points",
    "unit_length",
]
