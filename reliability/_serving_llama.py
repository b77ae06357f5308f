"""llama.cpp as a reader: run by serving.py with the python that has llama-cpp-python.

python _serving_llama.py convert SOURCE BASE OUT     a model without its tokenizer
python _serving_llama.py read MODEL ADAPTER SCALE OUT TOKENS
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

import numpy as np


def set_no_vocabulary(model: Any) -> None:
    """What a converter writes of a tokenizer: that there is none, and how many tokens it has."""
    model._set_vocab_none()
    model.gguf_writer.add_vocab_size(model.hparams["vocab_size"])


def convert(source: str, base: str, out: str) -> None:
    """Convert a model by llama.cpp's own program, but for the tokenizer: it needs none."""
    sys.path[:0] = [source, f"{source}/gguf-py"]
    import conversion  # the program's own package

    stock = conversion.get_model_class

    def without_tokenizer(*arguments: Any, **options: Any) -> Any:
        cls = stock(*arguments, **options)
        cls.set_vocab = set_no_vocabulary
        return cls

    conversion.get_model_class = without_tokenizer
    sys.argv = ["convert", base, "--outtype", "f32", "--outfile", out]
    runpy.run_path(f"{source}/convert_hf_to_gguf.py", run_name="__main__")


def read(model: str, adapter: str, scale: str, out: str, tokens: str) -> None:
    """Save the logits of a model with an adapter, or with none if its name is empty."""
    from llama_cpp import Llama

    options = {"lora_path": adapter, "lora_scale": float(scale)} if adapter else {}
    llm = Llama(model, n_ctx=64, logits_all=True, verbose=False, n_threads=1, **options)
    ids = [int(token) for token in tokens.split(",")]
    llm.eval(ids)
    np.save(out, llm.scores[: len(ids)])


if __name__ == "__main__":
    {"convert": convert, "read": read}[sys.argv[1]](*sys.argv[2:])
