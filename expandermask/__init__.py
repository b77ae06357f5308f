"""Sparse 0/1 masks that are proved to be Ramanujan graphs, and what to do with them."""

from expandermask import _moved as _moved
from expandermask import certificates, errors, expansion, graphs, inspection, masks
from expandermask.certificates import Certificate, certify, spectrum
from expandermask.errors import ExpanderMaskError
from expandermask.expansion import cheeger
from expandermask.graphs import BiregularGraph, feasible, ramanujan_graph
from expandermask.inspection import inspect_mask
from expandermask.masks import MaskPlan, generate_ramanujan_mask

__version__ = "0.1.0"
__all__ = [
    "BiregularGraph",
    "Certificate",
    "ExpanderMaskError",
    "MaskPlan",
    "certificates",
    "certify",
    "cheeger",
    "errors",
    "expansion",
    "feasible",
    "generate_ramanujan_mask",
    "graphs",
    "inspect_mask",
    "inspection",
    "masks",
    "ramanujan_graph",
    "spectrum",
]


_LAZY = ("adapters", "allocation", "importance", "peft", "plots")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


def __getattr__(name: str) -> object:
    """Import the folders that need torch or matplotlib only when they are asked for."""
    if name in _LAZY:
        from importlib import import_module

        return import_module(f"expandermask.{name}")
    raise AttributeError(f"module 'expandermask' has no attribute {name!r}")
