"""PEFT and transformers as readers, each way in which they take a folder.

A host is another adapter of the same base, which the model has before, or beside, the one read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import torch
from _serving_adapters import TOKENS, base, logits
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from torch import Tensor, nn

TARGET_RANK = 16


class WrongError(Exception):
    """What is wrong, where outputs alone do not show it."""


def plain(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """``PeftModel.from_pretrained``."""
    return logits(peft.PeftModel.from_pretrained(base(work, name), str(folder)))


def low_memory(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """The same without values made up first."""
    model = base(work, name)
    return logits(peft.PeftModel.from_pretrained(model, str(folder), low_cpu_mem_usage=True))


def in_one_batch(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """One of eight adapters, each of which has a row of the batch."""
    model = peft.PeftModel.from_pretrained(base(work, name), str(host), adapter_name="0")
    for number in range(1, 8):
        model.load_adapter(str(folder) if number == 5 else str(host), adapter_name=str(number))
    rows = TOKENS.repeat(8, 1)
    with torch.no_grad():
        found = model.eval()(input_ids=rows, adapter_names=[str(n) for n in range(8)]).logits
    other = logits(peft.PeftModel.from_pretrained(base(work, name), str(host)))
    if not torch.allclose(found[[0, 7]], other, atol=1e-4):
        raise WrongError("it changes what the other adapters of the batch compute")
    return found[5:6].float()


def swapped(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """Swapped in for the host's, whose rank is another."""
    model = peft.PeftModel.from_pretrained(base(work, name), str(host))
    hotswap_adapter(model, str(folder), "default", torch_device="cpu")
    return logits(model)


def swapped_compiled(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """Swapped in under ``torch.compile``, with room for the larger rank."""
    model = peft.PeftModel.from_pretrained(base(work, name), str(host)).eval()
    prepare_model_for_compiled_hotswap(model, target_rank=TARGET_RANK, config=model.peft_config)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    before = logits(compiled)
    hotswap_adapter(compiled, str(folder), "default", torch_device="cpu")
    found = logits(compiled)
    if torch.equal(before, found):
        raise WrongError("swapping changed nothing")
    return found


def auto(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """``AutoPeftModel``, and the class of the task."""
    kind = "SequenceClassification" if name.endswith("classifier") else "CausalLM"
    task = getattr(peft, f"AutoPeftModelFor{kind}")
    first, second = (
        logits(cls.from_pretrained(str(folder), dtype=torch.float32))
        for cls in (peft.AutoPeftModel, task)
    )
    if not torch.equal(first, second):
        raise WrongError("the two classes compute two things")
    return first


def transformers_own(work: Path, name: str, folder: Path, host: Path) -> Tensor:
    """``model.load_adapter`` of transformers."""
    model: nn.Module = base(work, name)
    model.load_adapter(str(folder))
    return logits(model)


PROGRAMS = {
    "PEFT, 8 adapters in a batch": "peft-batches",
    "PEFT, hot swap": "peft-hotswap",
    "PEFT, hot swap compiled": "peft-hotswap",
}
"""The names by which `export_peft` knows these; that of the others is "peft"."""

READERS: dict[str, Callable[[Path, str, Path, Path], Tensor]] = {
    "PEFT": plain,
    "PEFT, low memory": low_memory,
    "PEFT, 8 adapters in a batch": in_one_batch,
    "PEFT, hot swap": swapped,
    "PEFT, hot swap compiled": swapped_compiled,
    "PEFT, AutoPeftModel": auto,
    "transformers, load_adapter": transformers_own,
}
