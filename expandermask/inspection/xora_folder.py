"""The masks of an adapter that PEFT saved for a `XoraConfig`.

PEFT's file has the values without their places, and a hash of each module's masks. The masks follow
from the config beside it: from its plan if it has one, else from its rank, degree, method and seed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from expandermask.errors import FileFormatError, InvalidInputError, NotProvedError
from expandermask.files import parse_json, reading, require_fields
from expandermask.masks.peft_file import CONFIG_NAME
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.ranks import Ranks, exactly
from expandermask.safetensors_header import Entry, Header

_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(.+)\.xora_adapter\.(lora_[AB]|values_[ab]|mask_sha256)"
)
_OLD_NAMES = {"values_a": "lora_A", "values_b": "lora_B"}
"""What version 0.1.0 called the values."""
_HASH_BYTES = 32
_KEPT = 24
"""How many bytes of the hash are kept beside the seed."""
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "r": int,
    "left_degree": int,
    "mask_method": str,
    "mask_seed": int,
    "rank_pattern": list,
    "infeasible": str,
}


def is_xora(header: Header) -> bool:
    """Whether a safetensors file has values of PEFT's XoRA layers."""
    return any(_TENSOR.fullmatch(name) for name in header.entries)


def xora_plan(path: Path, header: Header, start: int) -> MaskPlan:
    """The plan behind PEFT's tensors, whose data begin at byte ``start`` of the file.

    Raises `FileFormatError` where the config beside the file is missing or does not describe these
    modules, or where the hash of a module's masks differs from the file's.
    """
    modules = _modules(header, path)
    with reading(path.parent / CONFIG_NAME, within=path.parent) as (stream, _):
        config = parse_json(stream.read())
    if not isinstance(config, dict) or config.get("peft_type") != "XORA":
        raise FileFormatError(
            f"{CONFIG_NAME} beside {path.name!r} must have peft_type 'XORA': it describes the masks"
        )
    plan = _plan(config, modules)
    if names := sorted(plan.keys() ^ modules.keys()):
        where = "plan" if names[0] in plan else "file"
        raise FileFormatError(f"module {names[0]!r:.200} is only in the {where}")
    with reading(path, within=path.parent) as (stream, _):
        for name, tensors in modules.items():
            stream.seek(start + tensors["mask_sha256"].first)
            if not is_mark_of(plan[name], stream.read(_HASH_BYTES)):
                raise FileFormatError(
                    f"the values of {name!r:.200} belong to other masks than {CONFIG_NAME} "
                    "describes: their hash differs"
                )
    return plan


def mask_mark(pair: MaskPair, seed: int) -> bytes:
    """What PEFT's files hold of a module's masks: the start of their hash, and the plan's seed."""
    return _hash(pair)[:_KEPT] + seed.to_bytes(_HASH_BYTES - _KEPT, "little")


def seed_in(mark: bytes) -> int:
    """The seed in a `mask_mark`."""
    return int.from_bytes(mark[_KEPT:], "little")


def is_mark_of(pair: MaskPair, mark: bytes) -> bool:
    """Whether ``mark`` is of these masks; files of version 0.1.0 have the whole hash there."""
    return mark[:_KEPT] == _hash(pair)[:_KEPT]


def _hash(pair: MaskPair) -> bytes:
    return hashlib.sha256((pair.a.digest + pair.b.digest).encode()).digest()


def _modules(header: Header, path: Path) -> dict[str, dict[str, Entry]]:
    """The three tensors of each module."""
    modules: dict[str, dict[str, Entry]] = {}
    for key, entry in header.entries.items():
        if match := _TENSOR.fullmatch(key):
            name = _OLD_NAMES.get(match[2], match[2])
            modules.setdefault(match[1], {})[name] = entry
    for name, tensors in modules.items():
        digest = tensors.get("mask_sha256")
        if len(tensors) != 3 or digest is None or digest.last - digest.first != _HASH_BYTES:
            raise FileFormatError(
                f"{path.name!r}: module {name!r:.200} must have lora_A, lora_B and a "
                f"mask_sha256 of {_HASH_BYTES} bytes, got {sorted(tensors)}"
            )
    return modules


def _plan(config: dict[str, Any], modules: dict[str, dict[str, Entry]]) -> MaskPlan:
    """The plan in the config, or the one that its numbers give modules of these shapes."""
    stored = config.get("mask_plan")
    if stored is not None:
        is_text = isinstance(stored, str)
        return MaskPlan.from_json(stored) if is_text else MaskPlan.from_dict(stored)
    unused = {"rank_pattern": [], "infeasible": "error"}
    kept = unused | {name: value for name, value in config.items() if name in _FIELDS}
    fields = require_fields(kept, _FIELDS, f"{CONFIG_NAME} of a XoRA adapter")
    sizes = {name: (t["lora_B"].shape, t["lora_A"].shape) for name, t in modules.items()}
    for name, shapes in sizes.items():
        if any(len(shape) != 2 or shape[1] != fields["left_degree"] for shape in shapes):
            raise FileFormatError(
                f"the values of {name!r:.200} have shapes {shapes}; both must have "
                f"left_degree={fields['left_degree']} columns, as {CONFIG_NAME} says"
            )
    targets = {name: (b[0], a[0]) for name, (b, a) in sizes.items()}
    try:
        asked = Ranks(*(fields[n] for n in ("r", "left_degree", "rank_pattern", "infeasible")))
        ranks, _ = asked.settle(targets)
        return MaskPlan.for_shapes(
            targets,
            r=max(ranks.values()),
            rank_pattern=exactly(ranks),
            left_degree=fields["left_degree"],
            method=fields["mask_method"],
            rng=fields["mask_seed"],
        )
    except (InvalidInputError, NotProvedError) as error:
        raise FileFormatError(f"{CONFIG_NAME} describes no masks: {error}") from None
