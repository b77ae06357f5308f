"""The commands that answer something about a mask: certify, recheck, inspect, cheeger, compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from expandermask.certificates import certify
from expandermask.certificates.certificate import DEFINITIONS, Definition
from expandermask.certificates.recheck import main as run_recheck
from expandermask.cli._app import EXIT, Json, app, print_rows
from expandermask.errors import InvalidInputError
from expandermask.expansion import cheeger
from expandermask.expansion.cuts import Kind
from expandermask.files import replacing, write_text
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.inspection import MaskReport, inspect_mask
from expandermask.inspection.checkpoints import open_masks
from expandermask.inspection.supports import support_of
from expandermask.masks import MaskPlan, compare, load_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure = Annotated[
    Path | None, typer.Option("--figure", help="Also draw it, to a .png, .svg or .pdf file.")
]
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
    as_json: Json = False,
) -> None:
    """Say whether a mask is Ramanujan, with proof; the exit code is the verdict.

    Example: expandermask certify mask.npz
    """
    certificate = certify(load_mask(file), definition=cast("Definition", definition), eps=eps)
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
) -> None:
    """Check a certificate against its mask, independently and in exact integers.

    The checker is one file, expandermask/certificates/recheck.py, that needs nothing but Python and
    can be run on its own. Exit code 0: confirmed; 1: rejected; 3: beyond it.

    Example: expandermask recheck proof.json mask.npz
    """
    raise typer.Exit(run_recheck([str(certificate), str(file)]))


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help=ANYTHING)],
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Report what is true of a mask, or of every mask in a plan, file or folder.

    Example: expandermask inspect ./my-adapter
    """
    report = inspect_mask(path, progress=not as_json)
    if figure is not None:
        _draw_report(report, path, figure)
    typer.echo(report.to_json() if as_json else str(report))


@app.command("cheeger")
def cheeger_command(
    path: Annotated[Path, typer.Argument(help="A mask: .npy, .npz or .json; of any degrees.")],
    kind: Annotated[str, typer.Option(help="edge or vertex.")] = "edge",
    milp_seconds: Annotated[
        float | None, typer.Option(help="Let the HiGHS solver look for a better cut as well.")
    ] = None,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """The edge or vertex Cheeger constant of a mask: exact, or a proved interval with a cut.

    Example: expandermask cheeger mask.npz --kind vertex
    """
    found = cheeger(_one_mask(path), cast("Kind", kind), milp_seconds=milp_seconds, rng=0)
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
    """What `compare` takes: a graph, a plan, or the graphs of all matrices by name."""
    found = open_masks(path)
    if isinstance(found, MaskPlan):
        return found
    if not isinstance(found, Mapping):
        return support_of(found, path.name).edges()
    matrices = {name: value for name, value in found.items() if len(value.shape) == 2}
    return {name: support_of(value, name).edges() for name, value in matrices.items()}


def _one_mask(path: Path) -> BipartiteGraph:
    found = open_masks(path)
    if isinstance(found, Mapping):
        raise InvalidInputError(f"{str(path)!r} holds {len(found)} masks; give a file of one")
    return support_of(found, path.name).edges()


def _draw_report(report: Any, path: Path, figure: Path) -> None:
    from expandermask import plots

    if isinstance(report, MaskReport):
        _save(plots.report(report, _one_mask(path))[0], figure)
    else:
        _save(plots.checkpoint(report), figure)


def _save(ax: Axes, figure: Path) -> None:
    """Write the figure that ``ax`` is part of, whole or not at all."""
    with replacing(figure) as temporary:
        try:
            cast("Any", ax.figure).savefig(
                temporary, format=figure.suffix[1:].lower() or "png", dpi=150
            )
        except ValueError as error:
            raise InvalidInputError(f"--figure {str(figure)!r}: {error}") from None
