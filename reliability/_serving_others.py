"""The programs that live in other environments: each is started, and what it computes is read."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _serving_adapters import TOKENS, slug
from tqdm import tqdm

HERE = Path(__file__).parent
IDS = TOKENS[0].tolist()
NOT_GIVEN = "not tried"
NOT_LLAMA = {"llama, classifier": "not tried: llama.cpp has no Llama that classifies"}
NOT_VLLM = {
    "llama, classifier": "not tried: only models that generate were given to vLLM",
    "glm4_moe": "not tried: vLLM has no LoRA for experts on a CPU",
    "deepseek_v2": "not tried: vLLM has no LoRA for experts on a CPU",
}
MAX_RANK = 64

Answer = np.ndarray | str
"""The logits, or why there are none."""


@dataclass(frozen=True)
class Foreign:
    """A folder, with the base that it is for."""

    base: str
    base_folder: Path
    folder: Path


def call(python: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run a python without this one's packages: how it ended, and what it said."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *map(str, arguments)],
        env={**variables, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def complaint(said: str, code: int = 1) -> str:
    """The line of a program that says what was wrong: the first error, or the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "rror:" in line or "ERROR" in line]
    return (errors or lines or [f"the program ended with {code}"])[0][:300]


# -- llama.cpp -------------------------------------------------------------------------------------


def read_llama(
    work: Path, jobs: list[Foreign], scale: float, python: Path | None, source: Path | None
) -> list[Answer]:
    """What llama.cpp computes at a scale, with its own converters' files."""
    if python is None or source is None:
        return [NOT_GIVEN] * len(jobs)
    progress = tqdm(jobs, desc=f"llama.cpp, scale {scale:g}", unit="folder")
    return [_llama(work, job, scale, python, source) for job in progress]


def _llama(work: Path, job: Foreign, scale: float, python: Path, source: Path) -> Answer:
    if job.base in NOT_LLAMA:
        return NOT_LLAMA[job.base]
    script = HERE / "_serving_llama.py"
    model, adapter = (f.with_suffix(".gguf") for f in (job.base_folder, job.folder))
    if not model.exists():
        code, said = call(python, script, "convert", source, job.base_folder, model)
        if code:
            raise RuntimeError(f"llama.cpp does not convert {job.base}: {complaint(said)}")
    if not adapter.exists():
        options = ["--base", job.base_folder, "--outtype", "f32", "--outfile", adapter]
        code, said = call(python, source / "convert_lora_to_gguf.py", job.folder, *options)
        if code:
            return f"refused: {complaint(said)}"
    out = work / slug(f"{job.folder.name} {scale}.npy")
    tokens = ",".join(map(str, IDS))
    code, said = call(python, script, "read", model, adapter, scale, out, tokens)
    return f"refused: {complaint(said, code)}" if code else np.load(out)


# -- vLLM ------------------------------------------------------------------------------------------


def read_vllm(work: Path, jobs: list[Foreign], python: Path | None) -> list[Answer]:
    """What vLLM computes, one engine for each base, and another after each refusal."""
    if python is None:
        return [NOT_GIVEN] * len(jobs)
    answers: dict[Path, Answer] = {j.folder: NOT_VLLM[j.base] for j in jobs if j.base in NOT_VLLM}
    progress = tqdm(total=len(jobs), initial=len(answers), desc="vLLM", unit="folder")
    while left := [job for job in jobs if job.folder not in answers]:
        batch = [job for job in left if job.base == left[0].base]
        answers |= _vllm(work, batch, python)
        progress.update(len(answers) - progress.n)
    return [answers[job.folder] for job in jobs]


def _vllm(work: Path, batch: list[Foreign], python: Path) -> dict[Path, Answer]:
    """The adapters of a base up to the first that is refused."""
    folder = work / "vllm"
    folder.mkdir(exist_ok=True)
    jobs = {
        "base": str(batch[0].base_folder),
        "max_rank": MAX_RANK,
        "tokens": IDS,
        "adapters": {str(number): str(job.folder) for number, job in enumerate(batch)},
    }
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    code, said = call(python, HERE / "_serving_vllm.py", folder / "jobs.json")
    lines = [line.removeprefix("JSON ") for line in said.splitlines() if line.startswith("JSON ")]
    found: dict[Path, Answer] = {}
    for name, answer in map(json.loads, lines):
        refused = not answer.endswith(".npy")
        found[batch[int(name)].folder] = (
            f"refused: {answer}" if refused else np.load(folder / answer)
        )
    if not found:  # the engine did not start with this base
        return {job.folder: f"refused: {complaint(said)}" for job in batch}
    return found


# -- versions --------------------------------------------------------------------------------------


def version_of(python: Path | None, package: str) -> str:
    """The version of a package in another environment."""
    if python is None:
        return NOT_GIVEN
    code, said = call(python, "-c", f"from importlib.metadata import *;print(version({package!r}))")
    return said.strip().splitlines()[-1] if code == 0 else "unknown"
