"""A CPU kernel for the masked update, compiled by numba when it is first used.

Nothing here needs to be there: where the machine or numba cannot, `supports` says no, and the
portable functions of `expandermask.adapters.layers.compute` do the same work.
"""

from expandermask.adapters.layers.kernel.few import LEAST_TOKENS, few_update, supports_few
from expandermask.adapters.layers.kernel.launch import available
from expandermask.adapters.layers.kernel.update import (
    check_index,
    masked_linear,
    masked_update,
    supports,
)

__all__ = [
    "LEAST_TOKENS",
    "available",
    "check_index",
    "few_update",
    "masked_linear",
    "masked_update",
    "supports",
    "supports_few",
]
