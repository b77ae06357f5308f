"""Training killed after every step and resumed: the same bits; two ranks' adapters: none lost.

    python reliability/resume.py [--times M]

MiniLM, adapted and with all its dropout on, is trained for 30 steps on film reviews, by the
Trainer (`SmallCheckpoints` with `AdapterCallback`) and by a plain loop. For every step a process is
ended by SIGKILL after it and another one resumes from what is on disk; at the end weights, masks,
both moments of AdamW and the state of the random generator must be those of the uninterrupted run,
bit for bit.
Then two processes save values that carry their rank's tag, under DDP and FSDP2, zero them and load
them again. Writes results/resume.json; exits with 1 if anything differs.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from _common import ROOT, parser, print_table, write_record
from torch import nn
from tqdm import tqdm
from transformers import (
    DataCollatorWithPadding,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from expandermask.adapters import (
    AdapterCallback,
    AdapterConfig,
    SmallCheckpoints,
    attach,
    load_adapter,
    save_adapter,
)
from expandermask.adapters.attachment import masked_layers
from expandermask.demo.data import load_snippets
from expandermask.demo.model import encoder_linears, load_model, load_tokenizer, model_source
from expandermask.demo.training import encode
from tests.adapters.training import ddp_work, fsdp_work
from tests.adapters.training.ranks import Ranks

STEPS, BATCH, LEARNING_RATE = 30, 4, 5e-3
KINDS = ("Trainer", "plain loop")


class KillAfter(TrainerCallback):
    """Ends the process as nothing can prevent, in the step after ``step``."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the backward pass, before the optimizer."""
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def pretrained() -> nn.Module:
    """MiniLM with a new head, the same every time."""
    torch.set_num_threads(1)
    return load_model(model_source(None), seed=0)


def adapted() -> nn.Module:
    """MiniLM with dropout 0.1 of its own and on the adapter's inputs."""
    model = pretrained()
    config = AdapterConfig(
        r=64,
        lora_dropout=0.1,
        target_modules=encoder_linears(model),
        modules_to_save=["classifier"],
    )
    attach(model, config, rng=0)
    return model


def digest(model: nn.Module, optimizer: Any) -> str:
    """SHA-256 of the model's tensors, indices too, the optimizer's, and the generator's state."""
    total = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    tensors = dict(model.state_dict())
    for place, layer in masked_layers(model).items():
        for name in ("index_a", "index_b"):
            tensors[f"{place}.{name}"] = getattr(layer.adapter("default"), name)
    for number, kept in optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{key}": tensor for key, tensor in kept.items()}
    for name in sorted(tensors):
        total.update(f"{name}\0".encode())
        total.update(tensors[name].detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def by_trainer(folder: Path, steps: int, kill: int | None, resume: bool) -> str:
    """Train with the Trainer; the digest at the end, unless killed."""
    tokenizer = load_tokenizer(model_source(None))
    snippets = load_snippets(train=4 * STEPS, validation=2, test=2)["train"]
    data = encode(tokenizer, snippets)
    rows = [{"input_ids": i, "labels": y} for i, y in zip(data.ids, snippets.labels, strict=True)]
    settings = TrainingArguments(
        str(folder),
        max_steps=steps,
        save_steps=1,
        save_total_limit=2,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        warmup_steps=3,
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SmallCheckpoints(
        adapted(),
        settings,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[AdapterCallback(), KillAfter(kill)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return digest(trainer.model, trainer.optimizer)


def by_loop(folder: Path, steps: int, kill: int | None, resume: bool) -> str:
    """Train with a plain loop that saves adapter, optimizer and generator after every step."""
    data = encode(load_tokenizer(model_source(None)), load_snippets(train=4 * STEPS)["train"])
    model, done = (pretrained(), 0) if resume else (adapted(), 0)
    if resume:
        load_adapter(model, folder / "adapter")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    torch.manual_seed(0)
    if resume:
        saved = torch.load(folder / "state.pt", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["generator"])
        done = saved["step"]
    model.train()
    for step in range(done, steps):
        rows = [(BATCH * step + k) % len(data) for k in range(BATCH)]
        model(**data.batch(rows), labels=data.labels[rows]).loss.backward()
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()
        optimizer.zero_grad()
        save_adapter(model, folder / "adapter")
        state = {"optimizer": optimizer.state_dict(), "generator": torch.get_rng_state()}
        torch.save(state | {"step": step + 1}, folder / "state.pt")
    return digest(model, optimizer)


def child(kind: str, end: Any, *arguments: Any) -> None:
    """One run in a process of its own."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    end.send((by_trainer if kind == "Trainer" else by_loop)(*arguments))


def run(kind: str, *arguments: Any) -> str | None:
    """The digest of a run; None if it was killed."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=child, args=(kind, there, *arguments))
    process.start()
    there.close()
    try:
        found: str = here.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"{kind}: a run ended with {process.exitcode}") from None
        return None
    process.join()
    return found


def killed_and_resumed(kind: str, steps: int, step: int) -> str | None:
    """The digest after a kill following ``step`` and a resume."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if run(kind, folder, steps, step, False) is not None:
            raise RuntimeError("the run outlived its kill")
        return run(kind, folder, steps, None, True)


def resumes(kind: str, steps: int, jobs: int) -> dict[str, Any]:
    """How many resumed runs end as the uninterrupted one does, and which do not."""
    with TemporaryDirectory() as name:
        expected = run(kind, Path(name), steps, None, False)
    cuts = list(range(1, steps))
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(partial(killed_and_resumed, kind, steps), cuts)
        ends = list(tqdm(found, total=len(cuts), desc=kind, unit="kill"))
    differing = [cut for cut, end in zip(cuts, ends, strict=True) if end != expected]
    return {"kills": len(cuts), "differing after step": differing}


def shards() -> dict[str, Any]:
    """Tensors saved by two ranks, zeroed and loaded again: how many there are, and are wrong."""
    counts: dict[str, Any] = {}
    with TemporaryDirectory() as name:
        ranks = Ranks(2, Path(name))
        for kind, work in (("DDP", ddp_work.tagged), ("FSDP2", fsdp_work.tagged)):
            answers = ranks.run(work, Path(name) / kind)
            wrong = [
                key
                for before, _, after in answers
                for key in before
                if not np.array_equal(before[key], after[key])
            ]
            values = sum(array.size for array in answers[0][0].values())
            counts[kind] = {"tensors": len(answers[0][0]), "values": values, "wrong": wrong}
        ranks.close()
    return counts


def main() -> int:
    """Count, print a table, write the record."""
    arguments = parser(__doc__ or "").parse_args()
    steps = max(2, round(STEPS * arguments.times))
    killed = {kind: resumes(kind, steps, arguments.jobs) for kind in KINDS}
    ranks = shards()
    print_table(
        ["killed and resumed", "kills", "differing"],
        [[kind, k["kills"], len(k["differing after step"])] for kind, k in killed.items()],
    )
    print_table(
        ["two ranks", "tensors", "values", "wrong"],
        [[kind, r["tensors"], r["values"], len(r["wrong"])] for kind, r in ranks.items()],
    )
    passed = not any(k["differing after step"] for k in killed.values())
    passed = passed and not any(r["wrong"] for r in ranks.values())
    body = {"steps": steps, "resumed": killed, "two ranks": ranks, "passed": passed}
    print(f"record: {write_record(arguments, 'resume', body).name}")
    return 0 if passed else 1


CONTEXT = multiprocessing.get_context("forkserver")
# Before Python 3.13 the server looks for modules by this alone, not by this process's sys.path.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
# The server imports these once, and every run starts as a copy of it.
CONTEXT.set_forkserver_preload(
    [
        "expandermask.adapters.training.callback",
        "expandermask.demo.model",
        "expandermask.demo.training",
        "transformers.trainer",
        "transformers.models.bert.modeling_bert",
        "transformers.models.bert.tokenization_bert",
        "accelerate",
    ]
)

if __name__ == "__main__":
    sys.exit(main())
