"""Make `tests/data/v0_1`: run once with version 0.1.0; never run again.

The folder holds a file of every kind that version 0.1.0 wrote, and the numbers behind it.
`tests/test_v0_1_files.py` reads them with the version at hand. A new format gets a new folder
beside this one. The script refuses to overwrite.

    python -m tests.data.make_v0_1
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import peft
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import expandermask
from expandermask import BiregularGraph, MaskPlan, certify, graphs, inspect_mask, ramanujan_graph
from expandermask.adapters import (
    AdapterConfig,
    MaskedLayer,
    XoraConfig,
    attach,
    export_peft,
    mask_peft,
    save_adapter,
    set_adapters,
)
from expandermask.allocation import (
    AdaLoRA,
    Policy,
    SaLoRA,
    prune,
)
from expandermask.certificates.recheck import recheck
from expandermask.importance import accuracy, derive_sparsity, svd_scores
from expandermask.masks import Scores, balanced, partial_plan, pyramidal, save_mask
from tests.data.v0_1_models import (
    LINEAR_SHAPES,
    build,
    fill,
    formula,
    output,
    probed,
)
from tests.data.v0_1_training import policies, trained, trainer_of

FOLDER = Path(__file__).parent / "v0_1"
ONES = {
    "0": (np.eye(4)[np.arange(24) % 4], np.ones((16, 4))),
    "2": (np.tril(np.ones((16, 4))), np.eye(4)[np.arange(24) % 4]),
}
"""Masks of one's own for ``mlp``: (k, r) and (d, r) for each module."""
BERT_TARGETS = ["query", "value", "output.dense"]
LARGE_SEED = 2**63 + 12345


def main() -> None:
    assert expandermask.__version__ == "0.1.0", "only version 0.1.0 made these files"
    if FOLDER.exists():
        raise SystemExit(f"{FOLDER} exists, and nothing in it may change")
    index: dict[str, Any] = {}
    index["attach"] = attach_cases()
    index["several"] = several_adapters()
    index["peft"] = peft_cases()
    index["exports"] = export_cases()
    index["states"] = state_cases()
    index["checkpoints"] = checkpoint_cases()
    index["policies"] = policy_cases()
    index["plans"] = plan_cases()
    index["masks"] = mask_cases()
    index["certificates"] = certificate_cases()
    sparsity_files()
    write_json(FOLDER / "index.json", index)


# -- what is shared -------------------------------------------------------------------------------


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, separators=(",", ":")) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, path)


def train_by_formula(model: nn.Module) -> None:
    """Give all that trains values that do something."""
    fill((n, p) for n, p in model.named_parameters() if p.requires_grad)


def deltas(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """The update of every module of which an adapter has something, by `probed`."""
    return {
        f"delta.{place}": probed(layer.adapter(name).delta())
        for place, layer in model.named_modules()
        if isinstance(layer, MaskedLayer)
        and name in layer.adapters
        and layer.adapter(name).delta().any()
    }


def plan_of(model: nn.Module, name: str = "default") -> MaskPlan:
    from expandermask.adapters.attachment import attachment

    return attachment(model).adapters[name].plan


def train(model: nn.Module, policy: Policy, steps: int, width: int = 24) -> None:
    """A plain loop on batches by formula."""
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        x = formula(f"x {step}", (8, width))
        y = formula(f"y {step}", (8, 24))
        (nn.functional.mse_loss(model(x), y) + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)


# -- adapters of attach() -------------------------------------------------------------------------

Source = MaskPlan | AdapterConfig
Change = Callable[[nn.Module], object]


def attach_cases() -> dict[str, Any]:
    small = AdapterConfig(r=4)
    dense = AdapterConfig(r=4, left_degree=4)
    bert = AdapterConfig(r=4, target_modules=BERT_TARGETS, lora_dropout=0.1)
    headed = AdapterConfig(
        r=4, target_modules=BERT_TARGETS, lora_dropout=0.1, modules_to_save=["classifier"]
    )
    cases: dict[str, tuple[str, Source, dict[str, Any]]] = {
        "plain": ("mlp", small, {}),
        "paper_scaling": ("mlp", AdapterConfig(r=4, lora_alpha=7, scaling="paper"), {}),
        "bert": ("bert", bert, {}),
        "bert_with_head": ("bert", headed, {}),
        "all_linear": ("llama", AdapterConfig(r=4), {}),
        "conv1d": ("gpt2", AdapterConfig(r=4, target_modules=["c_attn", "c_fc"]), {}),
        "embedding": ("embedding", AdapterConfig(r=4, target_modules=["0", "2"]), {}),
        "tied_embeddings": ("llama_tied", AdapterConfig(r=4, target_modules=["q_proj"]), {}),
        "resized_embedding": (
            "llama_resized",
            AdapterConfig(r=4, target_modules=["embed_tokens", "v_proj"]),
            {},
        ),
        "float64": ("mlp", small, {"dtype": "float64"}),
        "float16_base": ("mlp", small, {"dtype": "float16"}),
        "to_float16": ("mlp", small, {"converted": "float16"}),
        "to_bfloat16": ("mlp", small, {"converted": "bfloat16"}),
        "with_gates": ("mlp", dense, {"change": put_gates}),
        "adalora_finished": ("mlp", dense, {"change": finish_adalora}),
        "salora_finished": ("mlp", dense, {"change": finish_salora}),
        "salora_midway": ("mlp", dense, {"change": run_midway("salora")}),
        "alora_midway": ("mlp", dense, {"change": run_midway("alora")}),
        "rolora_midway": ("mlp", dense, {"change": run_midway("rolora")}),
        "diffora_midway": ("mlp", dense, {"change": run_midway("diffora")}),
        "pruned": ("mlp", dense, {"change": prune_some}),
        "pruned_module": ("mlp", dense, {"change": prune_a_module}),
        "pruned_bernoulli": (
            "mlp",
            partial_plan(LINEAR_SHAPES, balanced(LINEAR_SHAPES, 0.6), r=4, rng=4),
            {"change": prune_some},
        ),
    }
    for name, plan in mask_sources().items():
        cases[f"source_{name}"] = (model_of_source(name), plan, {})
    return {name: attach_case(name, *case) for name, case in cases.items()}


def attach_case(name: str, model_name: str, source: Source, more: dict[str, Any]) -> dict[str, Any]:
    dtype = getattr(torch, more.get("dtype", "float32"))
    model = build(model_name, dtype)
    if isinstance(source, AdapterConfig):
        attach(model, source, rng=0)
    else:
        attach(model, source)
    train_by_formula(model)
    if "change" in more:
        more["change"](model)
    entry = {"model": model_name, "dtype": more.get("dtype", "float32")}
    if converted := more.get("converted"):
        model.to(getattr(torch, converted))
        entry |= {"converted": converted, "config": source.to_dict()}
        plan_of(model).save(FOLDER / "attach" / f"{name}.plan.json")
        dtype = getattr(torch, converted)
    model.eval()
    save_adapter(model, FOLDER / "attach" / name)
    entry["num_values"] = plan_of(model).num_values
    write_tensors(
        FOLDER / "attach" / f"{name}.expected.safetensors",
        {"output": output(model_name, model, dtype), **deltas(model)},
    )
    return entry


def own_adapters(model: nn.Module) -> list[Any]:
    return [m.adapter("default") for m in model.modules() if isinstance(m, MaskedLayer)]


def put_gates(model: nn.Module) -> None:
    first, second = own_adapters(model)
    first.set_rank_gate(nn.Parameter(torch.tensor([1.5, 0.0, -0.5, 0.25])))
    first.set_module_gate(nn.Parameter(torch.tensor(0.75)))
    second.set_rank_gate(nn.Parameter(torch.tensor([0.0, 2.0, 1.0, -1.0])))


def prune_some(model: nn.Module) -> None:
    put_gates(model)
    prune(model)


def prune_a_module(model: nn.Module) -> None:
    first, second = own_adapters(model)
    first.set_rank_gate(torch.tensor([1.0, 0.0, 2.0, 0.0]))
    second.set_module_gate(torch.tensor(0.0))
    prune(model)


def finish_adalora(model: nn.Module) -> None:
    policy = AdaLoRA(target_rank=1.5, total_steps=8, warmup_steps=1, final_steps=2)
    policy.attach(model)
    train(model, policy, 8)
    ranks = policy.finish()
    assert len(set(ranks.values())) > 1, f"ranks should differ, got {ranks}"


def finish_salora(model: nn.Module) -> None:
    policy = SaLoRA(target_density=0.5, start_step=1, end_step=6)
    policy.attach(model)
    train(model, policy, 8)
    policy.finish()


def run_midway(name: str) -> Change:
    """A policy that has not finished: gates that are computed, modules with nothing left."""

    def change(model: nn.Module) -> None:
        policy = policies()[name]
        policy.attach(model)
        train(model, policy, 4)

    return change


def mask_sources() -> dict[str, MaskPlan]:
    """A plan of every origin of masks."""
    found = {}
    square = {"0": (12, 12)}
    for method in ("auto", "design", "random", "covering", "quasi-cyclic", "interlacing"):
        found[method] = MaskPlan.for_shapes(square, r=12, left_degree=3, method=method, rng=3)
    found["lps_residue"] = MaskPlan.for_shapes(square, r=12, left_degree=6, method="lps", rng=3)
    found["lps"] = MaskPlan.for_shapes({"0": (60, 60)}, r=60, left_degree=4, method="lps", rng=3)
    found["geometry"] = MaskPlan.for_shapes(
        {"0": (7, 7)}, r=7, left_degree=3, method="geometry", rng=3
    )
    found["large_seed"] = MaskPlan.for_shapes(LINEAR_SHAPES, r=4, method="random", rng=LARGE_SEED)
    densities = pyramidal(LINEAR_SHAPES, 0.7)
    scores = {
        name: Scores(formula(f"rows {name}", (d,)).numpy(), formula(f"cols {name}", (k,)).numpy())
        for name, (d, k) in LINEAR_SHAPES.items()
    }
    for select in ("bernoulli", "elements", "targeted", "inverted", "stochastic"):
        found[f"partial_{select}"] = partial_plan(
            LINEAR_SHAPES, densities, r=4, select=select, scores=scores, rng=5
        )
    found["from_masks"] = MaskPlan.from_masks(ONES, rng=6)
    kept = {n: (np.ones((k, 3)), np.ones((d, 3))) for n, (d, k) in LINEAR_SHAPES.items()}
    found["from_masks_complete"] = MaskPlan.from_masks(kept, rng=6)
    mixed = dict(ONES)
    mixed["0"] = (ramanujan_graph(24, 4, 2, rng=1), graphs.complete_bipartite(16, 4))
    found["from_masks_with_recipes"] = MaskPlan.from_masks(mixed, rng=6)
    bare = BiregularGraph.from_mask(ramanujan_graph(24, 4, 2, rng=1).mask())
    found["from_masks_no_recipe"] = MaskPlan.from_masks({"0": (bare, np.ones((16, 4)))}, rng=6)
    return found


def model_of_source(name: str) -> str:
    if name == "geometry":
        return "square7"
    if name == "lps":
        return "square60"
    by_shapes = name.startswith(("partial", "from_masks", "large_seed"))
    return "mlp" if by_shapes else "square12"


def several_adapters() -> dict[str, Any]:
    """Three adapters of one model, two of them active."""
    model = build("mlp")
    attach(model, AdapterConfig(r=4), rng=0, name="first")
    attach(model, AdapterConfig(r=4, left_degree=4, scaling="paper"), rng=1, name="second")
    attach(model, mask_sources()["partial_elements"], name="third")
    fill((n, p) for n, p in model.named_parameters() if ".adapters." in n)
    for name in ("first", "second", "third"):
        save_adapter(model, FOLDER / "several" / name, name=name)
    expected = {}
    for active in (["first"], ["first", "third"], ["third", "second", "first"]):
        set_adapters(model, active)
        expected["+".join(active)] = output("mlp", model)
    write_tensors(FOLDER / "several" / "expected.safetensors", expected)
    return {"model": "mlp", "adapters": ["first", "second", "third"], "active": [*expected]}


# -- PEFT -----------------------------------------------------------------------------------------


def peft_cases() -> dict[str, Any]:
    both = ["0", "2"]
    cases: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
        "plain": ("mlp", {"default": {"target_modules": both}}),
        "paper_scaling": (
            "mlp",
            {"default": {"target_modules": both, "scaling": "paper", "lora_alpha": 7.0}},
        ),
        "bert_with_head": (
            "bert",
            {"default": {"target_modules": BERT_TARGETS, "modules_to_save": ["classifier"]}},
        ),
        "embedding": ("embedding", {"default": {"target_modules": both}}),
        "conv1d": ("gpt2", {"default": {"target_modules": ["c_attn", "c_fc"]}}),
        "all_linear": ("llama", {"default": {"target_modules": "all-linear"}}),
        "layers": (
            "llama",
            {
                "default": {
                    "target_modules": ["q_proj", "up_proj"],
                    "layers_to_transform": [0],
                    "exclude_modules": ["up_proj"],
                }
            },
        ),
        "two_adapters": (
            "mlp",
            {
                "default": {"target_modules": both},
                "other": {"target_modules": ["2"], "left_degree": 4, "mask_seed": 9},
            },
        ),
        "large_seed": ("mlp", {"default": {"target_modules": both, "mask_seed": LARGE_SEED}}),
        "float64": ("mlp", {"default": {"target_modules": both}}),
    }
    for method in ("design", "random", "covering", "quasi-cyclic", "interlacing"):
        settings = {"target_modules": ["0"], "r": 12, "left_degree": 3, "mask_method": method}
        cases[f"method_{method}"] = ("square12", {"default": settings})
    cases["method_lps"] = (
        "square12",
        {"default": {"target_modules": ["0"], "r": 12, "left_degree": 6, "mask_method": "lps"}},
    )
    cases["method_geometry"] = (
        "square7",
        {"default": {"target_modules": ["0"], "r": 7, "left_degree": 3, "mask_method": "geometry"}},
    )
    return {name: peft_case(name, *case) for name, case in cases.items()}


def peft_case(name: str, model_name: str, adapters: dict[str, dict[str, Any]]) -> dict[str, Any]:
    dtype = torch.float64 if name == "float64" else torch.float32
    model = None
    for adapter, settings in adapters.items():
        config = XoraConfig(**{"r": 4, "mask_seed": 0, **settings})
        if model is None:
            model = peft.get_peft_model(build(model_name, dtype), config)
        else:
            model.add_adapter(adapter, config)
    assert model is not None
    fill((n, p) for n, p in model.named_parameters() if "xora_" in n or "modules_to_save" in n)
    model.eval()
    folder = FOLDER / "peft" / name
    model.save_pretrained(folder)
    remove_cards(folder)
    expected = {}
    for adapter in adapters:
        model.set_adapter(adapter)
        expected[f"{adapter}.output"] = output(model_name, model, dtype)
        for place, layer in model.base_model.model.named_modules():
            if adapter in getattr(layer, "xora_adapter", ()):
                expected[f"{adapter}.delta.{place}"] = probed(layer.xora_adapter[adapter].delta())
    write_tensors(FOLDER / "peft" / f"{name}.expected.safetensors", expected)
    return {
        "model": model_name,
        "dtype": str(dtype).removeprefix("torch."),
        "adapters": [*adapters],
    }


def remove_cards(folder: Path) -> None:
    """PEFT's model cards say nothing that is read."""
    for card in folder.rglob("README.md"):
        card.unlink()


def export_cases() -> dict[str, Any]:
    dense = AdapterConfig(r=4, left_degree=4)
    headed = AdapterConfig(r=4, target_modules=BERT_TARGETS, modules_to_save=["classifier"])
    sources = mask_sources()
    cases: dict[str, tuple[str, Source, Change | None]] = {
        "uniform": ("mlp", AdapterConfig(r=4), None),
        "paper_scaling": ("mlp", AdapterConfig(r=4, lora_alpha=7, scaling="paper"), None),
        "unequal_ranks": ("mlp", dense, prune_some),
        "unequal_ranks_sparse": ("mlp", AdapterConfig(r=4), prune_some),
        "adalora_finished": ("mlp", dense, finish_adalora),
        "bert_with_head": ("bert", headed, None),
        "embedding": ("embedding", AdapterConfig(r=4, target_modules=["0", "2"]), None),
        "conv1d": ("gpt2", AdapterConfig(r=4, target_modules=["c_attn", "c_fc"]), None),
        "bernoulli_elements": ("mlp", sources["partial_elements"], None),
        "bernoulli_rows": ("mlp", sources["partial_bernoulli"], None),
        "targeted": ("mlp", sources["partial_targeted"], None),
        "from_masks": ("mlp", sources["from_masks"], None),
    }
    entries = {name: export_case(name, *case) for name, case in cases.items()}
    masked_lora()
    return entries


def export_case(name: str, model_name: str, source: Source, change: Change | None) -> Any:
    model = build(model_name)
    attach(model, source, **({"rng": 0} if isinstance(source, AdapterConfig) else {}))
    train_by_formula(model)
    if change is not None:
        change(model)
    model.eval()
    export_peft(model, FOLDER / "exports" / name)
    write_tensors(
        FOLDER / "exports" / f"{name}.expected.safetensors",
        {"output": output(model_name, model), **deltas(model)},
    )
    return {"model": model_name, "num_values": plan_of(model).num_values}


def masked_lora() -> None:
    """A LoRA of PEFT's own, trained under masks of `mask_peft`."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"])
    model = peft.get_peft_model(build("mlp"), config)
    fill((n, p) for n, p in model.named_parameters() if "lora_" in n)
    plan = mask_peft(model, rng=0)
    folder = FOLDER / "masked_lora"
    model.save_pretrained(folder)
    remove_cards(folder)
    plan.save(folder / "plan.json")
    write_tensors(folder / "expected.safetensors", {"output": output("mlp", model.eval())})


# -- states ---------------------------------------------------------------------------------------


def state_cases() -> dict[str, Any]:
    dense = AdapterConfig(r=4, left_degree=4)
    headed = AdapterConfig(r=4, target_modules=BERT_TARGETS, modules_to_save=["classifier"])
    cases: dict[str, tuple[str, Source, Change | None]] = {
        "plain": ("mlp", AdapterConfig(r=4), None),
        "gates": ("mlp", dense, put_gates),
        "embedding": ("embedding", AdapterConfig(r=4, target_modules=["0", "2"]), None),
        "bert_with_head": ("bert", headed, None),
        "partial_elements": ("mlp", mask_sources()["partial_elements"], None),
    }
    return {name: state_case(name, *case) for name, case in cases.items()}


def state_case(name: str, model_name: str, source: Source, change: Change | None) -> Any:
    model = build(model_name)
    fill(model.named_parameters(), scale=0.2)  # other weights than those of a fresh model
    attach(model, source, **({"rng": 0} if isinstance(source, AdapterConfig) else {}))
    train_by_formula(model)
    if change is not None:
        change(model)
    plan = plan_of(model)
    folder = FOLDER / "states"
    write_tensors(folder / f"{name}.safetensors", model.state_dict())
    write_tensors(
        folder / f"{name}.expected.safetensors",
        {"output": output(model_name, model.eval()), **deltas(model)},
    )
    plan.save(folder / f"{name}.plan.json")
    config = source.to_dict() if isinstance(source, AdapterConfig) else None
    return {"model": model_name, "config": config, "gates": change is not None}


def checkpoint_cases() -> dict[str, Any]:
    """Two steps of a Trainer, saved; and where two more steps lead."""
    for name in ("plain", "adalora"):
        with tempfile.TemporaryDirectory() as place:
            model, trainer, policy = trainer_of(name, Path(place))
            trainer.train()
            target = FOLDER / "checkpoints" / name
            shutil.copytree(Path(place) / "checkpoint-2", target)
            for unread in ("training_args.bin", "rng_state.pth"):
                (target / unread).unlink(missing_ok=True)
            write_tensors(
                FOLDER / "checkpoints" / f"{name}.expected.safetensors", trained(model, policy)
            )
    return {"plain": {}, "adalora": {}}


def policy_cases() -> dict[str, Any]:
    """Policies in the middle of training: their states, and those of their models."""
    entries = {}
    for name, policy in policies().items():
        model = build("mlp")
        attach(model, AdapterConfig(r=4, left_degree=4), rng=0)
        policy.attach(model)
        train(model, policy, 5)
        folder = FOLDER / "policies"
        write_tensors(folder / f"{name}.policy.safetensors", policy.state_dict())
        write_tensors(folder / f"{name}.model.safetensors", model.state_dict())
        write_tensors(
            folder / f"{name}.expected.safetensors", {"output": output("mlp", model.eval())}
        )
        entries[name] = {"ranks": policy.ranks()}
    return entries


# -- masks, plans, certificates -------------------------------------------------------------------


def plan_cases() -> dict[str, Any]:
    entries = {}
    for name, plan in (mask_sources() | wide_plans()).items():
        plan.save(FOLDER / "plans" / f"{name}.json")
        entries[name] = {
            "r": plan.r,
            "left_degree": plan.left_degree,
            "seed": plan.seed,
            "masks": {
                place: [[graph.n1, graph.n2, edges_of(graph)] for graph in (pair.a, pair.b)]
                for place, pair in plan.items()
            },
        }
    return entries


def wide_plans() -> dict[str, MaskPlan]:
    """Plans whose indices do not fit in one byte."""
    rows = np.arange(300)[:, None] % 7 < 2
    many_ranks = formula("wide", (6, 300)).numpy() > 0.8
    return {
        "wide_rows": MaskPlan.from_masks({"0": (rows & np.ones(4, bool), np.ones((5, 4)))}, rng=1),
        "wide_ranks": MaskPlan.from_masks({"0": (many_ranks, many_ranks[::-1])}, rng=1),
    }


def edges_of(graph: Any) -> list[int]:
    """The places of the ones, row by row, in the mask laid out flat."""
    return np.flatnonzero(graph.mask().ravel()).tolist()


def mask_graphs() -> dict[str, BiregularGraph]:
    """Small graphs of every construction that has a recipe."""
    by = ramanujan_graph
    return {
        "design_table": by(24, 4, 2, method="design", rng=1),
        "design_searched": by(14, 14, 3, method="design", rng=1),
        "design_greedy": by(24, 24, 3, method="design", rng=1),
        "design_polished": by(40, 20, 3, method="design", rng=1),
        "design_left_shorter": by(8, 32, 8, method="design", rng=1),
        "random": by(20, 10, 3, method="random", rng=LARGE_SEED),
        "random_left_shorter": by(10, 20, 6, method="random", rng=1),
        "covering_of_complete": by(24, 24, 3, method="covering", rng=1),
        "covering_of_random": by(28, 14, 6, method="covering", rng=1),
        "covering_tower": by(96, 48, 3, method="covering", rng=1),
        "cyclic_covering": graphs.cyclic_covering(graphs.heawood(), 2, rng=7),
        "quasi_cyclic": by(40, 20, 3, method="quasi-cyclic", rng=1),
        "lps": graphs.lps(3, 5),
        "lps_residue": graphs.lps(5, 3),
        "interlacing": by(12, 12, 3, method="interlacing", rng=1),
        "interlacing_left_shorter": by(6, 12, 6, method="interlacing", rng=1),
        "projective_plane": graphs.projective_plane(3),
        "array_code": graphs.array_code(5, 3),
        "symplectic_quadrangle": graphs.generalized_quadrangle(2),
        "hermitian_quadrangle": graphs.hermitian_quadrangle(2),
        "complete": graphs.complete_bipartite(6, 4),
        "heawood": graphs.heawood(),
        "pappus": graphs.pappus(),
        "desargues": graphs.desargues(),
        "tutte_coxeter": graphs.tutte_coxeter(),
        "hypercube": graphs.hypercube(5),
        "transposed": graphs.array_code(4, 3).transpose(),
        "no_recipe": BiregularGraph.from_mask(graphs.heawood().mask()),
    }


def mask_cases() -> dict[str, Any]:
    entries = {}
    for name, graph in mask_graphs().items():
        suffixes = (".json", ".npz", ".npy") if name in ("random", "no_recipe") else (".json",)
        for suffix in suffixes:
            save_mask(FOLDER / "masks" / f"{name}{suffix}", graph)
            entries[f"{name}{suffix}"] = {
                "shape": [graph.n1, graph.n2],
                "edges": edges_of(graph),
                "sha256": graph.digest,
                "verdict": inspect_mask(graph).verdict,
            }
    return entries


def certificate_cases() -> dict[str, Any]:
    """Certificates of every verdict, method and definition that is quick, each with its mask."""
    cube = graphs.hypercube(7)
    rook = nx.cartesian_product(nx.complete_graph(8), nx.complete_graph(4))  # sigma_2 = rho = 6
    step = float(np.sqrt(6.0) * 2)
    two_rings = np.kron(np.eye(2, dtype=int), graphs.heawood().mask())
    tiled = np.tile(np.eye(4, dtype=int), (2, 2)) | np.tile(np.eye(4, dtype=int)[::-1], (2, 2))
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "cholesky": (graphs.heawood(), {}),
        "random": (ramanujan_graph(20, 10, 3, method="random", rng=1), {}),
        "hypercube": (graphs.hypercube(6), {}),
        "two_sided": (graphs.heawood(), {"definition": "two-sided"}),
        "two_sided_tutte": (graphs.tutte_coxeter(), {"definition": "two-sided"}),
        "two_sided_pappus": (graphs.pappus(), {"definition": "two-sided"}),
        "two_sided_refuted": (
            graphs.random_biregular(20, 10, 3, rng=3),
            {"definition": "two-sided"},
        ),
        "within_refuted": (cube, {"definition": "within", "eps": 0.1}),
        "within_proved": (cube, {"definition": "within", "eps": 0.2}),
        "within_undecided": (cube, {"definition": "within", "eps": 5.0 - step}),
        "refuted_cube": (cube, {}),
        "refuted_components": (BiregularGraph.from_mask(two_rings), {}),
        "refuted_tiled": (BiregularGraph.from_mask(tiled), {}),
        "regular_bipartite": (graphs.heawood(), {"definition": "regular"}),
        "regular_petersen": (nx.petersen_graph(), {"definition": "regular"}),
        "regular_refuted": (nx.circular_ladder_graph(20), {"definition": "regular"}),
        "undecided_lanczos": (graphs.random_biregular(16400, 16400, 3, rng=0), {}),
        "blocks": (ramanujan_graph(2080, 1040, 3, method="quasi-cyclic", rng=1), {}),
        "tie_exact": (nx.to_numpy_array(rook, dtype=int), {}),
    }
    entries = {}
    for name, (graph, asked) in cases.items():
        found = certify(graph, **asked)
        mask = about(graph, found)
        (FOLDER / "certificates").mkdir(parents=True, exist_ok=True)
        (FOLDER / "certificates" / f"{name}.json").write_text(found.to_json())
        save_mask(FOLDER / "certificates" / f"{name}.mask.json", mask)
        entries[name] = {
            **asked,
            "verdict": found.verdict,
            "method": found.method,
            "sigma2": list(found.sigma2),
            "recheck": recheck(found.to_json(), mask.neighbors.tolist(), mask.n2).outcome,
        }
    return entries


def about(graph: Any, certificate: Any) -> BiregularGraph:
    """The biregular graph that a certificate is about."""
    if isinstance(graph, BiregularGraph):
        return graph
    if certificate.definition == "regular":
        matrix = nx.to_numpy_array(graph, dtype=int)
        if nx.is_bipartite(graph):
            left = sorted(n for n, side in nx.bipartite.color(graph).items() if side)
            right = sorted(set(graph) - set(left))
            options = [matrix[np.ix_(left, right)], matrix[np.ix_(right, left)]]
        else:
            options = [matrix]
    else:
        options = [graph]
    found = [BiregularGraph.from_mask(option) for option in options]
    return next(g for g in found if g.digest == certificate.digest)


# -- importance -----------------------------------------------------------------------------------


def sparsity_files() -> None:
    """A result of `derive_sparsity`, and the file a search goes on from."""
    model = build("mlp")
    x = formula("sparsity", (40, 24))
    with torch.no_grad():
        metric = accuracy([(x, model(x).argmax(dim=1))])
    folder = FOLDER / "sparsity"
    folder.mkdir(parents=True)
    found = derive_sparsity(
        model, svd_scores(model), metric, resume=folder / "progress.json", progress=False
    )
    found.save(folder / "result.json")


if __name__ == "__main__":
    main()
