"""Which modules get how much: rank gates and module gates, exact budgets, one method per file."""

from expandermask.errors import MissingPackageError

try:
    import torch as _torch  # noqa: F401  # only asks whether it is there
except ImportError as error:
    raise MissingPackageError(
        "expandermask.allocation needs PyTorch; install it with: pip install 'expandermask[torch]'"
    ) from error

from expandermask.allocation.adalora import AdaLoRA
from expandermask.allocation.alora import ALoRA, minus_loss
from expandermask.allocation.budget import share
from expandermask.allocation.diffora import DiffoRA
from expandermask.allocation.policy import Policy
from expandermask.allocation.prune import prune
from expandermask.allocation.rolora import ROLoRA
from expandermask.allocation.salora import SaLoRA
from expandermask.allocation.sora import SoRA
from expandermask.allocation.static import plan_of_ranks, ranks_by_weight, uniform_ranks

__all__ = [
    "ALoRA",
    "AdaLoRA",
    "DiffoRA",
    "Policy",
    "PolicyCallback",
    "ROLoRA",
    "SaLoRA",
    "SoRA",
    "minus_loss",
    "plan_of_ranks",
    "prune",
    "ranks_by_weight",
    "share",
    "uniform_ranks",
]


def __getattr__(name: str) -> object:
    """Import what needs transformers only when it is asked for."""
    if name == "PolicyCallback":
        from expandermask.allocation.callback import PolicyCallback

        return PolicyCallback
    raise AttributeError(f"module 'expandermask.allocation' has no attribute {name!r}")
