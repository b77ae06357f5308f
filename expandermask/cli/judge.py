"""The commands that answer something about a mask: certify, recheck, inspect, cheeger, compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from expandermask.certificates import certify
from expandermask.certificates.certificate import DEFINITIONS
from expandermask.certificates.definitions import check_definition, graph_for
from expandermask.certificates.recheck import recheck
from expandermask.cli._app import EXIT, Json, app, print_rows
from expandermask.errors import InvalidInputError
from expandermask.expansion import cheeger
from expandermask.expansion.cuts import Kind
from expandermask.files import read_bytes, replacing, write_text
from expandermask.inspection import MaskReport, inspect_mask
from expandermask.inspection.checkpoints import open_masks
from expandermask.inspection.supports import support_of
from expandermask.masks import MaskPlan, compare, load_mask, save_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure = Annotated[
    Path | None, typer.Option("--figure", help="Also draw it, to a .png, .svg or .pdf file.")
]
FIGURES = (".png", ".svg", ".pdf")
RECHECK_EXIT = {"CONFIRMED": 0, "REJECTED": 1, "BEYOND": 3}
ANYTHING = (
    "A mask (.npy, .npz, .json), a plan (.json), a .safetensors file, or the folder of an adapter "
    "or a checkpoint."
)


@app.command("certify")
def certify_command(
    file: Annotated[Path, typer.Argument(help="A mask: .npz, .npy or .json.")],
    definition: Annotated[
        str, typer.Option("--definition", help=f"What to show: {', '.join(DEFINITIONS)}.")
    ] = "one-sided",
    eps: Annotated[
        float | None, typer.Option(help="With --definition within: sigma_2 <= rho + eps.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the certificate as JSON.")
    ] = None,
    graph_output: Annotated[
        Path | None,
        typer.Option(
            "--graph", help="Write the mask the certificate is about, as .npz, .npy or .json."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a mask is Ramanujan, with proof; the exit code is the verdict.

    With --definition regular, an array is the adjacency matrix of a regular graph. The certificate
    is about the bipartite graph that stands for it, which --graph writes for `recheck`.

    Example: expandermask certify mask.npz
    """
    named, slack = check_definition(definition, eps)
    graph = graph_for(named, _one_mask(file) if named == "regular" else load_mask(file))
    certificate = certify(graph, definition=named, eps=slack if named == "within" else None)
    if graph_output is not None:
        save_mask(graph_output, graph)
    if output is not None:
        write_text(output, certificate.to_json())
    if as_json:
        typer.echo(certificate.to_json(), nl=False)
    else:
        print_rows(certificate.rows())
    raise typer.Exit(EXIT[certificate.verdict])


@app.command("recheck")
def recheck_command(
    certificate: Annotated[Path, typer.Argument(help="What `certify -o` wrote.")],
    file: Annotated[Path, typer.Argument(help="The mask it is about: .npz, .npy or .json.")],
    as_json: Json = False,
) -> None:
    """Check a certificate against its mask, independently and in exact integers.

    The checker is one file, expandermask/certificates/recheck.py, that needs nothing but Python and
    can be run on its own. Exit code 0: confirmed; 1: rejected; 3: beyond it.

    Example: expandermask recheck proof.json mask.npz
    """
    graph = load_mask(file)
    result = recheck(read_bytes(certificate), graph.neighbors.tolist(), graph.n2)
    if as_json:
        typer.echo(json.dumps(result._asdict(), indent=1))
    else:
        typer.echo(f"{result.outcome}: {result.reason}")
        if result.unchecked:
            typer.echo(f"not derived again: {', '.join(result.unchecked)}")
    raise typer.Exit(RECHECK_EXIT[result.outcome])


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help=ANYTHING)],
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Report what is true of a mask, or of every mask in a plan, file or folder.

    Example: expandermask inspect ./my-adapter
    """
    _check_figure(figure)
    report = inspect_mask(path, progress=sys.stderr.isatty())
    if figure is not None:
        _draw_report(report, path, figure)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        typer.echo(str(report))


@app.command("cheeger")
def cheeger_command(
    path: Annotated[Path, typer.Argument(help="A mask: .npy, .npz or .json; of any degrees.")],
    kind: Annotated[str, typer.Option(help="edge or vertex.")] = "edge",
    milp_seconds: Annotated[
        float | None, typer.Option(help="Let the HiGHS solver look for a better cut as well.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the search for a cut; the same seed, the same cut.")
    ] = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """The edge or vertex Cheeger constant of a mask: exact, or a proved interval with a cut.

    Example: expandermask cheeger mask.npz --kind vertex
    """
    _check_figure(figure)
    found = cheeger(_one_mask(path), cast("Kind", kind), milp_seconds=milp_seconds, rng=seed)
    if figure is not None:
        from expandermask import plots

        _save(plots.cut(found), figure)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        print_rows(found.rows())


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(help=ANYTHING)],
    b: Annotated[Path, typer.Argument(help="Another, with masks of the same shapes.")],
    as_json: Json = False,
) -> None:
    """How much two masks, or two plans, have in common, and how much chance would give.

    Example: expandermask compare plan-a.json plan-b.json
    """
    found = compare(_masks(a), _masks(b))
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        print_rows(found.rows())


def _masks(path: Path) -> Any:
    """What `compare` takes: a mask, a plan, or the supports of all matrices by name."""
    found = open_masks(path)
    if isinstance(found, MaskPlan):
        return found
    if not isinstance(found, Mapping):
        return found
    matrices = {name: value for name, value in found.items() if len(value.shape) == 2}
    return {name: support_of(value, name).edges() for name, value in matrices.items()}


def _one_mask(path: Path) -> Any:
    """The one array or graph in a file, as it is."""
    found = open_masks(path)
    if isinstance(found, Mapping):
        raise InvalidInputError(f"{str(path)!r} holds {len(found)} masks; give a file of one")
    return found


def _draw_report(report: Any, path: Path, figure: Path) -> None:
    from expandermask import plots

    if isinstance(report, MaskReport):
        _save(plots.report(report, _one_mask(path))[0], figure)
    else:
        _save(plots.checkpoint(report), figure)


def _check_figure(figure: Path | None) -> None:
    """Refuse a picture no one can draw before anything is computed for it."""
    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise InvalidInputError(f"--figure must end in {', '.join(FIGURES)}, got {str(figure)!r}")


def _save(ax: Axes, figure: Path) -> None:
    """Write the figure that ``ax`` is part of, whole or not at all."""
    with replacing(figure) as temporary:
        cast("Any", ax.figure).savefig(temporary, format=figure.suffix[1:].lower(), dpi=150)
