"""export_peft(readers=...): what other programs would not read right is refused, or warned of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from expandermask.adapters import AdapterConfig, XoraConfig, attach, export_peft
from expandermask.errors import AdapterError, InvalidInputError
from tests.adapters.models import bert, gpt2, mlp, randomise
from tests.adapters.readers import MODELS, READERS, deltas, updates
from tests.adapters.serving_table import PAGE, record, table
from tests.adapters.test_export_experts import DEEPSEEK, model_of

RECORD = record()
PROGRAMS = ("peft", "peft-batches", "peft-hotswap", "llama.cpp", "vllm")


def refusals(model: nn.Module, folder: Path, **options: Any) -> dict[str, str]:
    """Which programs a folder is not written for, and why; nothing is left of it then."""
    found = {}
    for program in PROGRAMS:
        target = folder / program
        try:
            export_peft(model, target, readers=[program], **options)
        except AdapterError as error:
            found[program] = str(error)
            assert not target.exists()
        else:
            assert (target / "adapter_model.safetensors").exists()
    return found


def warned(model: nn.Module, folder: Path, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_peft(model, folder, **options)
    return [str(w.message) for w in caught if "without a word" in str(w.message)]


def llama(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        vocab_size=64, num_attention_heads=4, pad_token_id=0, **(sizes | changes)
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("compact", [False, True])
def test_llama_cpp_is_refused_exactly_what_one_alpha_gets_wrong(
    kind: str, compact: bool, tmp_path: Path
) -> None:
    """The oracle computes with the one alpha of the config and each tensor's own rank."""
    model = MODELS[kind][0]()
    said = warned(model, tmp_path / "folder", compact=compact)
    found, expected = updates(tmp_path / "folder", READERS["tensor"]), deltas(model)
    right = all(torch.allclose(found[n].float(), expected[n], atol=1e-5) for n in expected)
    refused = refusals(model, tmp_path, compact=compact).get("llama.cpp", "")
    assert ("takes one lora_alpha" in refused) == (not right)
    assert any("takes one lora_alpha" in line for line in said) == (not right)
    assert right == (not compact or kind in ("uniform", "conv1d", "embedding"))


def saving(*names: str) -> nn.Module:
    model = llama()
    attach(model, AdapterConfig(r=8, modules_to_save=names), rng=0)
    return model


def biased() -> nn.Module:
    targets = ["q_proj", "v_proj"]
    config = XoraConfig(r=8, target_modules=targets, bias="all", mask_seed=0)
    return peft.get_peft_model(llama(attention_bias=True), config)


def adapted(model: nn.Module, *targets: str, r: int = 8) -> nn.Module:
    attach(model, AdapterConfig(r=r, target_modules=targets), rng=0)
    randomise(model)
    return model


def towers() -> nn.Module:
    parts = {"vision_tower": nn.Linear(64, 64), "language_model": nn.Linear(64, 64)}
    return adapted(nn.ModuleDict(parts), "vision_tower", "language_model")


def deepseek() -> nn.Module:
    return model_of(DEEPSEEK)


def wide() -> nn.Module:
    model = nn.Sequential(nn.Linear(1024, 1024))
    attach(model, AdapterConfig(r=1024, target_modules=["0"]), rng=0)
    return model


CASES: dict[str, tuple[Callable[[], nn.Module], set[str], set[str]]] = {
    "nothing but linear modules": (lambda: adapted(llama(), "q_proj", "v_proj"), set(), set()),
    "a trained norm": (
        lambda: saving("input_layernorm"),
        {"peft-batches", "peft-hotswap", "llama.cpp", "vllm"},
        {"llama.cpp"},
    ),
    "the last norm": (
        lambda: saving("norm"),
        {"peft-batches", "peft-hotswap", "llama.cpp", "vllm"},
        {"llama.cpp"},
    ),
    "a trained head": (lambda: saving("lm_head"), {"peft-hotswap", "llama.cpp", "vllm"}, set()),
    "biases": (
        biased,
        {"peft-batches", "peft-hotswap", "llama.cpp", "vllm"},
        {"peft-batches"},
    ),
    "an embedding": (lambda: adapted(llama(), "embed_tokens"), {"peft-hotswap"}, set()),
    "Conv1D": (lambda: adapted(gpt2(), "c_attn", "c_proj"), {"llama.cpp", "vllm"}, set()),
    "square Conv1D": (
        lambda: adapted(gpt2(), "attn.c_proj"),
        {"llama.cpp", "vllm"},
        {"llama.cpp"},
    ),
    "a vision tower": (towers, {"llama.cpp"}, {"llama.cpp"}),
    "latent attention": (lambda: adapted(deepseek(), "q_b_proj"), {"llama.cpp"}, {"llama.cpp"}),
    "the output of latent attention": (lambda: adapted(deepseek(), "o_proj"), set(), set()),
    "a module that it never adapts": (
        lambda: adapted(nn.ModuleDict({"altup_projection": nn.Linear(64, 64)}), "altup_projection"),
        {"llama.cpp"},
        {"llama.cpp"},
    ),
    "a rank of 1024": (wide, {"vllm"}, set()),
    "a classifier's head": (
        lambda: adapted(bert(), "query"),
        {"peft-hotswap", "llama.cpp"},
        set(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_program_is_refused_what_it_does_not_read(case: str, tmp_path: Path) -> None:
    make, refused, silent = CASES[case]
    model = make()
    assert set(refusals(model, tmp_path)) == refused
    said = warned(model, tmp_path / "warned")
    assert {line.split()[0] for line in said} == silent
    assert not warned(model, tmp_path / "warned", readers=["peft"])


def test_a_refusal_names_the_program_the_tensor_and_the_way_out(tmp_path: Path) -> None:
    model = saving("input_layernorm")
    message = (
        r"llama\.cpp, one of readers=\['peft', 'llama\.cpp'\], skips trained norms, such as "
        r"'model\.layers\.0\.input_layernorm\.weight'; leave them out of modules_to_save"
    )
    with pytest.raises(AdapterError, match=message):
        export_peft(model, tmp_path, readers=["peft", "llama.cpp"])
    with pytest.raises(InvalidInputError, match=r"readers must be of .*'vllm'\], got 'ollama'"):
        export_peft(adapted(mlp(), "0"), tmp_path, readers=["ollama"])
    assert not list(tmp_path.iterdir())
    export_peft(adapted(mlp(), "0"), tmp_path, readers="vllm")


# -- the record of the programs themselves ---------------------------------------------------------


def test_every_row_of_the_record_is_right_or_refused() -> None:
    assert RECORD["passed"]
    verdicts = {row["verdict"].split(":")[0] for row in RECORD["rows"]}
    assert verdicts <= {"right", "refused when writing", "refused by the reader", "not tried"}
    for row in RECORD["rows"]:
        if row["verdict"] == "right":
            near = 1e-2 if row["reader"].startswith("llama.cpp") else 1e-4
            assert row["difference"] <= near < row["effect"] / 10


def test_every_kind_of_ranks_was_read_by_every_program() -> None:
    ranks = ("uniform ranks", "AdaLoRA's ranks", "pruned ranks", "Bernoulli masks")
    readers = {row["reader"] for row in RECORD["rows"]}
    assert {"llama.cpp, scale 1", "llama.cpp, scale 0.5", "vLLM"} < readers
    for reader in readers:
        for adapter in ranks:
            rows = [r for r in RECORD["rows"] if (r["reader"], r["adapter"]) == (reader, adapter)]
            exports = [row for row in rows if row["written by"].endswith("export_peft")]
            assert len(exports) == 2
            assert {row["verdict"] for row in exports} == {"right"}


def test_the_table_in_the_docs_is_that_of_the_record() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(table(RECORD["rows"])) + "\n\n" in page
    for program, version in RECORD["readers"].items():
        assert f"{program} {version}" in page
