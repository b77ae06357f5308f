"""Masked LoRA inside Hugging Face PEFT: the tuner, and folders that stock PEFT reads and writes.

Importing this package teaches ``peft`` the method XORA. Without the import, PEFT refuses a folder
of that method with ``KeyError: 'XORA'``.
"""

from expandermask.errors import MissingPackageError

try:
    import peft as _peft  # noqa: F401  # only asks whether it is there
except ImportError as error:
    raise MissingPackageError(
        "expandermask.peft needs PEFT; install it with: pip install 'expandermask[torch]'"
    ) from error

from expandermask.masks.shira import shira_mask_fn
from expandermask.peft._export import export_peft
from expandermask.peft._import import import_peft
from expandermask.peft._mixed_model import take_part as _take_part
from expandermask.peft._tuner import XoraConfig, XoraLayer, XoraModel

__all__ = [
    "XoraConfig",
    "XoraLayer",
    "XoraModel",
    "export_peft",
    "import_peft",
    "shira_mask_fn",
]

_take_part()
