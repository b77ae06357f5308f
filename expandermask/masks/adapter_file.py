"""The document inside an adapter file: its config, its plan, and a hash of every tensor.

An adapter is one safetensors file. Beside the tensors its header holds, as the metadata
"expandermask", compact JSON with the adapter's config, its plan (recipes and hashes, or indices of
masks without a recipe), the SHA-256 of each tensor's bytes, and a seal: the SHA-256 of all of these
and of the dtypes and shapes in the header. So there is no byte of the file whose change is not
noticed. The seal is no signature, since anyone can compute it. Nothing here needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expandermask.errors import FileFormatError
from expandermask.files import document_body, parse_json, require_fields, seal, write_document
from expandermask.masks.declared import DeclaredPair, declared_masks
from expandermask.masks.plan import MaskPlan
from expandermask.safetensors_header import Header

FORMAT = "expandermask adapter"
FORMAT_VERSION = 2
WEIGHTS_NAME = "adapter_model.safetensors"
"""The file of an adapter in its folder; PEFT's has the same name."""
KEY = "expandermask"
"""The name of the document among the metadata, which no other program writes."""
DtypeAndShape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class AdapterDocument:
    """What an adapter file says of itself, checked against its header; no mask is made yet."""

    config: dict[str, Any]
    """The fields of an `AdapterConfig`, unchecked."""
    plan: dict[str, Any]
    """The plan's JSON, for `MaskPlan.from_dict`."""
    masks: Mapping[str, DeclaredPair]
    """The masks the plan describes, by module."""
    sha256: dict[str, str]
    """The hash of every tensor's bytes, in hexadecimal digits."""

    def build_plan(self) -> MaskPlan:
        """Make the masks and check them; raises as `MaskPlan.from_json` does."""
        return MaskPlan.from_dict(self.plan)


def adapter_metadata(
    config: Mapping[str, Any],
    plan: Mapping[str, Any],
    tensors: Mapping[str, DtypeAndShape],
    sha256: Mapping[str, str],
) -> dict[str, str]:
    """The metadata of an adapter file: the document, and what stock readers look for."""
    body: dict[str, Any] = {"config": config, "plan": plan, "sha256": sha256}
    body["seal"] = _seal(body, tensors)
    return {"format": "pt", KEY: write_document(FORMAT, FORMAT_VERSION, body, compact=True)}


def is_adapter(header: Header) -> bool:
    """Whether a safetensors file claims to be an adapter of this library."""
    return KEY in header.metadata


def read_document(header: Header, what: str) -> AdapterDocument:
    """The document of an adapter file, checked but for the data and the masks themselves.

    Parameters
    ----------
    header : Header
        The file's header, from `parse_whole_header`.
    what : str
        What errors call the file.

    Raises
    ------
    FileFormatError
        Other metadata, other fields, another format or version, hashes that are not of the header's
        tensors, a seal that does not fit, or a plan that no file of this library holds.
    TooLargeError
        The plan's masks are too large to make.
    """
    if not is_adapter(header):
        raise FileFormatError(
            f"{what} is no adapter of save_adapter: its metadata have no {KEY!r}, only "
            f"{sorted(header.metadata)!r:.200}; load a folder of a PeftModel by "
            "PeftModel.from_pretrained, and one of stock LoRA also by import_peft"
        )
    if set(header.metadata) != {"format", KEY} or header.metadata["format"] != "pt":
        raise FileFormatError(
            f"{what}: its metadata must be 'format': 'pt' and {KEY!r}, got "
            f"{sorted(header.metadata)!r:.200}"
        )
    try:
        return _read(header)
    except FileFormatError as error:
        raise FileFormatError(f"{what}: {error}") from None


def _read(header: Header) -> AdapterDocument:
    body = require_fields(
        document_body(parse_json(header.metadata[KEY]), FORMAT, FORMAT_VERSION),
        {"config": dict, "plan": dict, "sha256": dict, "seal": str},
        "an adapter",
    )
    sha256, found = body["sha256"], body.pop("seal")
    if names := sorted(sha256.keys() ^ header.entries.keys()):
        where = "its document" if names[0] in sha256 else "the file"
        raise FileFormatError(f"tensor {names[0]!r:.200} is only in {where}")
    for name, digest in sha256.items():
        if type(digest) is not str or re.fullmatch("[0-9a-f]{64}", digest) is None:
            raise FileFormatError(f"tensor {name!r:.200}: {digest!r:.80} is no SHA-256")
    tensors = {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()}
    if found != _seal(body, tensors):
        raise FileFormatError(
            "its document, or a dtype or shape in its header, was altered: the seal does not fit"
        )
    return AdapterDocument(body["config"], body["plan"], declared_masks(body["plan"]), sha256)


def _seal(body: Mapping[str, Any], tensors: Mapping[str, DtypeAndShape]) -> str:
    header = {name: [dtype, list(shape)] for name, (dtype, shape) in tensors.items()}
    return seal({"format": FORMAT, "format_version": FORMAT_VERSION, **body, "header": header})
