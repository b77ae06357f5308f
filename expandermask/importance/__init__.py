"""How important rows and columns of a pretrained model's weights are, and how many are needed."""

from expandermask.errors import MissingPackageError

try:
    import torch as _torch  # noqa: F401  # only asks whether it is there
except ImportError as error:
    raise MissingPackageError(
        "expandermask.importance needs PyTorch; install it with: pip install 'expandermask[torch]'"
    ) from error

from expandermask.importance.gradients import gradient_norms, imp_scores, snip_scores
from expandermask.importance.head import fit_head
from expandermask.importance.metrics import accuracy
from expandermask.importance.result import AxisSparsity, ModuleSparsity, SparsityResult
from expandermask.importance.sparsity import derive_sparsity
from expandermask.importance.svd import svd_scores
from expandermask.importance.width import LayerSize, WidthBound, layer_sizes, width_bound

__all__ = [
    "AxisSparsity",
    "LayerSize",
    "ModuleSparsity",
    "SparsityResult",
    "WidthBound",
    "accuracy",
    "derive_sparsity",
    "fit_head",
    "gradient_norms",
    "imp_scores",
    "layer_sizes",
    "snip_scores",
    "svd_scores",
    "width_bound",
]
