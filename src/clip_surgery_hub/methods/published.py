"""The methods of this package: one entry for each publication."""

from clip_surgery_hub.methods.method import Method
from clip_surgery_hub.methods.mixing import (
    correlative_attention,
    identity_attention,
    neighbour_attention,
    query_query_attention,
    self_self_attention,
    unit_value_attention,
    value_value_attention,
)

PUBLISHED: tuple[Method, ...] = (
    Method(
        name="clip_surgery",
        mix=value_value_attention,
        default_depth=6,
        reference="A closer look at the explainability of Contrastive language-image pre-training, "
        "Pattern Recognition 162, 2025, arXiv 2304.05653",
    ),
    Method(
        name="clip_surgery_normalised",
        mix=unit_value_attention,
        default_depth=6,
        reference="The form of CLIP Surgery (arXiv 2304.05653) meant for CLIP's ResNets",
    ),
    Method(
        name="gem",
        mix=self_self_attention,
        default_depth=6,
        reference="Grounding Everything: Emerging localization properties in vision-language transformers, "
        "CVPR 2024, arXiv 2312.00878",
    ),
    Method(
        name="maskclip",
        mix=identity_attention,
        default_depth=1,
        residual=False,
        reference="Extract free dense labels from CLIP, ECCV 2022, arXiv 2112.01071",
    ),
    Method(
        name="sclip",
        mix=correlative_attention,
        default_depth=1,
        mlp=True,
        reference="SCLIP: Rethinking self-attention for dense vision-language inference, ECCV 2024, "
        "arXiv 2312.01597",
    ),
    Method(
        name="clearclip",
        mix=query_query_attention,
        default_depth=1,
        residual=False,
        reference="ClearCLIP: Decomposing CLIP representations for dense vision-language inference, "
        "ECCV 2024, arXiv 2407.12442",
    ),
    Method(
        name="naclip",
        mix=neighbour_attention,
        default_depth=1,
        residual=False,
        reference="Pay attention to your neighbours: Training-free open-vocabulary semantic segmentation, "
        "WACV 2025, arXiv 2404.08181",
    ),
    Method(
        name="none",
        mix=None,
        default_depth=0,
        reference="Learning transferable visual models from natural language supervision, arXiv 2103.00020",
    ),
)
