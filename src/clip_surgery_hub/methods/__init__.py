"""What the patch tokens become in an operated block: one small function and one frozen entry per method.

Every method reads a trained vision tower in another way without touching its weights. Next to the tower's
own tokens ``x`` (the original path, unchanged) the patch tokens ``y`` take a new path through the last
``depth`` blocks, starting at ``y = x``. In each of these blocks

    ``u = W_o mix(q, k, v) + b_o``, with q, k and v computed from the original path,
    ``y <- y + u`` (or ``y <- u`` for a method without residual),
    ``y <- y + MLP(LN2(y))`` only for a method with MLP.

The new path never feeds back into the original one, so CLS and with it the image embedding stay CLIP's own.

What stands before the patches is the tower's business: CLS in CLIP (tokens = 1 + N), CLS and registers in
others, nothing in SigLIP. A method mixes all tokens, and the tower takes the patches out of the result.

`mixing` has the mathematics, `method` says what an entry is, `published` has the entries of this package, and
`registry` knows them by name.
"""

from clip_surgery_hub.methods.method import ARGUMENTS, Method
from clip_surgery_hub.methods.mixing import (
    correlative_attention,
    identity_attention,
    neighbour_attention,
    query_query_attention,
    self_self_attention,
    unit_value_attention,
    value_value_attention,
)
from clip_surgery_hub.methods.registry import METHODS, get_method, register_method

__all__ = [
    "ARGUMENTS",
    "METHODS",
    "Method",
    "correlative_attention",
    "get_method",
    "identity_attention",
    "neighbour_attention",
    "query_query_attention",
    "register_method",
    "self_self_attention",
    "unit_value_attention",
    "value_value_attention",
]
