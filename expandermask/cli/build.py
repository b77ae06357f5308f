"""The commands that make something: mask, feasible, plan, demo."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expandermask.certificates import certify
from expandermask.cli._app import INTERRUPTED, Json, app, print_rows
from expandermask.errors import InvalidInputError, MissingPackageError
from expandermask.graphs import Recipe, feasible, ramanujan_graph
from expandermask.graphs.catalog import METHODS
from expandermask.masks import MaskPlan, save_mask
from expandermask.masks.files import SUFFIXES

if TYPE_CHECKING:
    from torch import nn

Seed = Annotated[int | None, typer.Option(help="Seed; the same seed gives the same masks.")]


@app.command()
def mask(
    n1: Annotated[int, typer.Argument(help="Rows of the mask (left vertices).")],
    n2: Annotated[int, typer.Argument(help="Columns of the mask (right vertices).")],
    d1: Annotated[int, typer.Argument(help="Ones in each row; n1*d1 must be divisible by n2.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the mask: .npz, .npy or .json.")
    ] = None,
    method: Annotated[
        str, typer.Option("-m", "--method", help=f"The construction: {', '.join(METHODS)}.")
    ] = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Make a mask that is proved Ramanujan, print its certificate, and write it if asked.

    Example: expandermask mask 768 8 2 -o mask.npz
    """
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise InvalidInputError(f"--output must end in {', '.join(SUFFIXES)}, got {str(output)!r}")
    graph = ramanujan_graph(n1, n2, d1, method=method, rng=seed)
    certificate = certify(graph)
    if output is not None:
        save_mask(output, graph)
    if as_json:
        typer.echo(certificate.to_json(), nl=False)
        return
    print_rows(certificate.rows())
    if graph.recipe is not None:
        made = f"made by {_algorithms(graph.recipe)}, seed {graph.recipe.seed}"
        typer.echo(made + (f", written to {output}" if output else ""))


@app.command("feasible")
def feasible_command(
    n1: Annotated[int, typer.Argument(help="Rows of the mask (left vertices).")],
    n2: Annotated[int, typer.Argument(help="Columns of the mask (right vertices).")],
    d1: Annotated[int, typer.Argument(help="Ones in each row; n1*d1 must be divisible by n2.")],
    as_json: Json = False,
) -> None:
    """Say which constructions can make a shape, and why the others cannot.

    Example: expandermask feasible 60 60 4
    """
    answers = feasible(n1, n2, d1)
    typer.echo(json.dumps(asdict(answers), indent=1) if as_json else str(answers))


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A folder or hub name with a transformers config.")],
    targets: Annotated[
        str,
        typer.Option(
            help="'all-linear', name endings separated by commas, or a regular expression."
        ),
    ] = "all-linear",
    rank: Annotated[int, typer.Option("-r", "--rank", help="Rank of the adapters.")] = 64,
    left_degree: Annotated[
        int, typer.Option("-d", "--left-degree", help="Entries kept per column of A, row of B.")
    ] = 2,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the plan as JSON.")
    ] = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Certified masks for every target module of a model; needs its config, not its weights.

    Example: expandermask plan ./my-model --targets query,value -r 64 -o plan.json
    """
    from expandermask.adapters import parameter_report

    shapes = _model_on_meta(model)
    made = MaskPlan.for_model(
        shapes,
        target_modules=_parse_targets(targets),
        r=rank,
        left_degree=left_degree,
        rng=seed,
        progress=sys.stderr.isatty(),
    )
    certificates = made.certify(progress=sys.stderr.isatty())
    if output is not None:
        made.save(output)
    report = parameter_report(made)
    verdicts = sorted({c.verdict for c in certificates.values()})
    worst = max(c.ratio for c in certificates.values())
    if as_json:
        body = {
            "modules": len(made),
            "masks": len(certificates),
            "verdicts": verdicts,
            "worst_sigma2_over_limit": worst,
            "seed": made.seed,
            "parameters": report.to_dict(),
        }
        typer.echo(json.dumps(body, indent=1))
    else:
        typer.echo(f"{made!r}, seed {made.seed}")
        typer.echo(f"{len(certificates)} masks {', '.join(verdicts)}; sigma_2/limit <= {worst:.4f}")
        typer.echo(str(report))
        if output is not None:
            typer.echo(f"written to {output}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path(
        "demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer snippets, under 90 s.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of masks, heads and batch order.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Another model: a folder or hub name (BERT-like).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a real pretrained transformer under certified masks, beside dense LoRA.

    Masks for every linear layer of MiniLM's encoder are built and proved, trained on movie-review
    snippets beside stock LoRA of the same rank and a frozen probe, saved, reloaded and checked.
    """
    from expandermask.demo import run_demo

    # With --json the account of the run goes to the error stream, so that the output is JSON alone.
    say = partial(typer.echo, err=True) if as_json else typer.echo
    result = run_demo(out, quick=quick, seed=seed, model=model, say=say)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def _algorithms(recipe: Recipe) -> str:
    """What made a graph, and what that rests on: "two_lift_tower of complete_bipartite"."""
    name = recipe.algorithm
    return name if recipe.base is None else f"{name} of {_algorithms(recipe.base)}"


def _parse_targets(targets: str) -> str | list[str]:
    """A comma-separated list of plain names, or the string itself."""
    names = [name.strip() for name in targets.split(",")]
    plain = all(name.replace("_", "").replace(".", "").isalnum() for name in names)
    return names if plain and targets != "all-linear" else targets


def _model_on_meta(name: str) -> nn.Module:
    """The model of a transformers config, without weights."""
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingPackageError("plans need: pip install 'expandermask[torch]'") from None
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        architecture = (config.architectures or [None])[0]
        kind = getattr(transformers, architecture or "", None)
        with torch.device("meta"):
            model = kind(config) if kind is not None else transformers.AutoModel.from_config(config)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"no usable transformers config at {name!r}: {error}") from None
    return model  # type: ignore[no-any-return]  # transformers is untyped
