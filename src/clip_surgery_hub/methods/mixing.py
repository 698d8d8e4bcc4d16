"""The methods: how each mixes the tokens of a modified block, and its entry right below.

A mixing function is a pure function of what the original path computed.

Softmaxes run over the keys, of each head by itself, and everything that stands before the patches takes part
as query, key and value. `scale` is the block's own, head_dim ** -0.5. All results are
`[B, heads, tokens, head_dim]`, the shape of the values.
"""

# Annotations as text: torch.compile of PyTorch 2.8 cannot trace functions in functions whose own are unions.
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad, scaled_dot_product_attention

from clip_surgery_hub.methods.method import Method, register_method

#: Standard deviation of the neighbors' window in `neighbor_attention`, in patches.
NEIGHBOR_SIGMA = 5.0
#: How many times the block's own scale `unit_value_attention` takes.
UNIT_VALUE_SHARPNESS = 8.0


def value_value_attention(value: Tensor, scale: float) -> Tensor:
    """Tokens attend where the values agree: `softmax(scale V V') V`, `[B, heads, tokens, head_dim]`.

    The architecture surgery of CLIP Surgery (arXiv 2304.05653, section 3.2): similar values, unlike similar
    queries and keys, belong to the same thing in the image. CLS takes part as a key and value.
    """
    return scaled_dot_product_attention(value, value, value, scale=scale)


register_method(
    Method(
        name="clip_surgery",
        mix=value_value_attention,
        default_depth=6,
        reference="A closer look at the explainability of Contrastive language-image pre-training, "
        "Pattern Recognition 162, 2025, arXiv 2304.05653",
    )
)


def unit_value_attention(value: Tensor, scale: float) -> Tensor:
    """Tokens attend where the values point the same way: `softmax(8 scale V^ V^') V`, V^ at unit length.

    What CLIP Surgery (arXiv 2304.05653) names beside `value_value_attention` for the attention pool of CLIP's
    ResNets. Each head's values are brought to unit length by themselves, in float32 at least, and only for
    the comparison: what is mixed are the values as they are.
    """
    unit = normalize(value.to(torch.promote_types(value.dtype, torch.float32)), dim=-1).to(value.dtype)
    return scaled_dot_product_attention(unit, unit, value, scale=UNIT_VALUE_SHARPNESS * scale)


register_method(
    Method(
        name="clip_surgery_normalized",
        mix=unit_value_attention,
        default_depth=6,
        reference="The form of CLIP Surgery (arXiv 2304.05653) meant for CLIP's ResNets",
    )
)


def self_self_attention(query: Tensor, key: Tensor, value: Tensor, normed: Tensor, scale: float) -> Tensor:
    """Queries, keys and values each group the tokens, and the mean of the three groupings mixes the values.

    GEM (arXiv 2312.00878). With P^ the tokens of P at unit length,

        `P <- softmax(tau P^ P^') P^` once, for each P of Q, K and V,
        `mean over the three of softmax(tau P^ P^') V`, `[B, heads, tokens, head_dim]`,

    where `tau = scale * mean over tokens of |normed|` is one number per image. Lengths and tau are taken
    in float32 at least.
    """
    precise = torch.promote_types(value.dtype, torch.float32)
    lengths = torch.linalg.vector_norm(normed, dim=-1, dtype=torch.promote_types(normed.dtype, precise))
    temperature = scale * lengths.mean(dim=-1)[:, None, None, None]

    def attend(tokens: Tensor, values: Tensor | None = None) -> Tensor:
        unit = normalize(tokens.to(precise), dim=-1)
        warm, cold = (temperature * unit).to(value.dtype), unit.to(value.dtype)
        return scaled_dot_product_attention(warm, cold, cold if values is None else values, scale=1.0)

    # One after the other: each stays in the processor's cache, which stacking the three would not.
    by_query, by_key, by_value = (attend(attend(tokens), value) for tokens in (query, key, value))
    return (by_query + by_key + by_value) / 3


register_method(
    Method(
        name="gem",
        mix=self_self_attention,
        default_depth=6,
        reference="Grounding Everything: Emerging localization properties in vision-language transformers, "
        "CVPR 2024, arXiv 2312.00878",
    )
)


def identity_attention(value: Tensor) -> Tensor:
    """Every token keeps its own value, `V`: MaskCLIP's identity in place of attention (arXiv 2112.01071)."""
    return value


register_method(
    Method(
        name="maskclip",
        mix=identity_attention,
        default_depth=1,
        residual=False,
        reference="Extract free dense labels from CLIP, ECCV 2022, arXiv 2112.01071",
    )
)


def correlative_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Tokens attend where queries or keys agree: `(softmax(scale Q Q') + softmax(scale K K')) V`.

    SCLIP (arXiv 2312.01597): a sum of two, not their mean.
    """
    by_query = scaled_dot_product_attention(query, query, value, scale=scale)
    return by_query + scaled_dot_product_attention(key, key, value, scale=scale)


register_method(
    Method(
        name="sclip",
        mix=correlative_attention,
        default_depth=1,
        mlp=True,
        reference="SCLIP: Rethinking self-attention for dense vision-language inference, ECCV 2024, "
        "arXiv 2312.01597",
    )
)


def query_query_attention(query: Tensor, value: Tensor, scale: float) -> Tensor:
    """Tokens attend where the queries agree: `softmax(scale Q Q') V`, as in ClearCLIP (arXiv 2407.12442)."""
    return scaled_dot_product_attention(query, query, value, scale=scale)


register_method(
    Method(
        name="clearclip",
        mix=query_query_attention,
        default_depth=1,
        residual=False,
        reference="ClearCLIP: Decomposing CLIP representations for dense vision-language inference, "
        "ECCV 2024, arXiv 2407.12442",
    )
)


def neighbor_attention(key: Tensor, value: Tensor, scale: float, grid: tuple[int, int]) -> Tensor:
    """Tokens attend where the keys agree, and near by: `softmax(scale K K' + w) V`, with `neighbor_window`.

    NACLIP (arXiv 2404.08181). The window is the same for all heads and images, and made once per call.

    Raises:
        ValueError: when `grid` has more patches than there are tokens.
    """
    rows, columns = grid
    before = key.shape[-2] - rows * columns
    if before < 0:
        raise ValueError(
            f"a grid of {rows} x {columns} patches (rows x columns) does not fit {key.shape[-2]} tokens: "
            "pass the grid of the pixels that the tokens come from"
        )
    window = neighbor_window(rows, columns, like=key)
    window = pad(window, (before, 0, before, 0))  # nothing is near what stands before the patches
    return scaled_dot_product_attention(key, key, value, attn_mask=window, scale=scale)


register_method(
    Method(
        name="naclip",
        mix=neighbor_attention,
        default_depth=1,
        residual=False,
        reference="Pay attention to your neighbours: Training-free open-vocabulary semantic segmentation, "
        "WACV 2025, arXiv 2404.08181",
    )
)


def neighbor_window(rows: int, columns: int, *, like: Tensor) -> Tensor:
    """How near two patches are: `w = exp(-|distance|^2 / (2 sigma^2))`, `[N, N]`, N = rows * columns.

    The distance is in patches, sigma is `NEIGHBOR_SIGMA`. Its square is a sum over rows and columns, so that
    w is the Kronecker product of a window of the rows and one of the columns.

    Args:
        rows: of the patch grid.
        columns: of the patch grid.
        like: a tensor of the device and dtype of the result, which is computed in float32 at least.
    """
    precise = torch.promote_types(like.dtype, torch.float32)
    windows = []
    for count in (rows, columns):
        places = torch.arange(count, device=like.device, dtype=precise)
        windows.append(torch.exp((places[:, None] - places) ** 2 / (-2 * NEIGHBOR_SIGMA**2)))
    return torch.kron(*windows).to(like.dtype)


register_method(
    Method(
        name="none",
        mix=None,
        default_depth=0,
        reference="Learning transferable visual models from natural language supervision, arXiv 2103.00020",
    )
)
