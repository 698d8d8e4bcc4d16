"""The methods: how patch tokens are computed in the last blocks of a vision tower.

`mixing` has the mathematics with an entry per method, `method` says what an entry is and knows them by name.
"""

from clip_surgery_hub.methods import mixing as mixing  # registers its entries
from clip_surgery_hub.methods.method import ARGUMENTS, METHODS, Method, get_method, register_method

__all__ = ["ARGUMENTS", "METHODS", "Method", "get_method", "register_method"]
