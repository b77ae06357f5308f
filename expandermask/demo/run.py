"""run_demo(): the whole main job, each artefact written as soon as there is one.

The order is that of what is worth keeping: plan, certificates and picture first, then the masked
adapter and its files, then the arms it is compared with. The report and ``results.json`` are
rewritten after every stage, so an interrupted run leaves a report of what was finished.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from expandermask.adapters import export_peft, parameter_report
from expandermask.certificates import Certificate
from expandermask.demo import arms
from expandermask.demo.arms import Materials
from expandermask.demo.checks import peft_difference, reloads_identically
from expandermask.demo.data import load_snippets
from expandermask.demo.folders import replacing_folder
from expandermask.demo.model import model_source
from expandermask.demo.report import summary, to_markdown
from expandermask.demo.result import DemoResult, MaskSummary
from expandermask.demo.settings import FULL, QUICK, Settings
from expandermask.errors import MissingPackageError, NotProvedError
from expandermask.files import replacing, write_text
from expandermask.masks.plan import MaskPlan

Say = Callable[[str], None]

_PICTURE = (11.0, 4.8)


def run_demo(
    out: str | os.PathLike[str] = "demo",
    *,
    quick: bool = False,
    seed: int = 0,
    model: str | None = None,
    settings: Settings | None = None,
    progress: bool = True,
    say: Say = print,
) -> DemoResult:
    """Build, prove, train, save and check masked adapters on a real model; write it all to ``out``.

    Parameters
    ----------
    out : path
        Folder for ``plan.json``, ``certificates.json``, ``spectra.png``, ``adapter/``, ``peft/``,
        ``results.json`` and ``report.md``. Files of an earlier run are replaced one by one.
    quick : bool
        A smaller run that shows the path works; its accuracies mean little.
    seed : int
        Seed of the masks, the first values of adapters and heads, and the order of the batches.
        The split into training and test snippets is always the same.
    model : str, optional
        A folder or hub name of another BERT-like model; the packaged MiniLM without one.
    settings : Settings, optional
        All sizes and learning rates, in place of those ``quick`` chooses.
    progress : bool
        Show progress bars.
    say : callable
        Receives each line of text; `print` by default.

    Returns
    -------
    DemoResult
        With ``interrupted`` set if Ctrl-C ended the run; everything finished is in it and on disk.

    Raises
    ------
    MissingPackageError
        A package the demo needs is not installed; the message says which, and how to get it.
    InvalidInputError
        The model cannot be loaded or has no classifier head of the usual kind.
    """
    _require_packages()
    source = model_source(model)
    if Path(source).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    settings = settings or (QUICK if quick else FULL)
    parts = load_snippets(train=settings.train, test=settings.test)
    split = {part: parts[part].digest for part in ("train", "test")}
    result = DemoResult(settings, seed, model or "MiniLM-L6-v2", split)
    started = time.perf_counter()
    folder = Path(out)
    say(
        f"{result.model}, {settings.train:,} training and {settings.test:,} test snippets, "
        f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}, seed {seed}"
    )
    try:
        materials = Materials.load(source, parts["train"], parts["test"], settings, seed, progress)
        plan = _prove(materials, folder, result, say)
        for stage in (_masked, _probe, _lora):
            result.seconds = time.perf_counter() - started
            _write(result, folder)
            stage(materials, plan, folder, result, say)
    except KeyboardInterrupt:
        result.interrupted = True
    result.seconds = time.perf_counter() - started
    _write(result, folder)
    say(summary(result, folder))
    return result


def _prove(materials: Materials, folder: Path, result: DemoResult, say: Say) -> MaskPlan:
    """The plan, a certificate of every mask, and the picture of their spectra."""
    started = time.perf_counter()
    plan = arms.make_plan(materials)
    certificates = plan.certify(progress=materials.progress)
    seconds = time.perf_counter() - started
    result.masks = _summarise(plan, certificates, seconds)
    if result.masks.proved < result.masks.masks:
        unproved = [name for name, c in certificates.items() if c.verdict != "PROVED"]
        raise NotProvedError(f"{len(unproved)} masks are not proved Ramanujan: {unproved[:3]} ...")
    result.cost = parameter_report(plan).to_dict()
    plan.save(folder / "plan.json")
    result.artefacts.append("plan.json")
    documents = {name: json.loads(proof.to_json()) for name, proof in certificates.items()}
    write_text(folder / "certificates.json", json.dumps(documents, indent=1) + "\n")
    result.artefacts.append("certificates.json")
    say(
        f"{result.masks.proved} of {result.masks.masks} masks PROVED Ramanujan in {seconds:.1f} s; "
        f"sigma_2 at most {result.masks.worst_ratio:.4f} of the provable limit"
    )
    _draw(plan, folder / "spectra.png")
    result.artefacts.append("spectra.png")
    say(str(parameter_report(plan)))
    return plan


def _masked(
    materials: Materials, plan: MaskPlan, folder: Path, result: DemoResult, say: Say
) -> None:
    """Train and save the masked adapter, export it, and prove both files whole."""
    result.arms[arms.MASKED], model, logits = arms.masked_adapter(
        materials, plan, folder / "adapter"
    )
    result.artefacts.append("adapter")
    with replacing_folder(folder / "peft") as temporary:
        export_peft(model, temporary)
    result.artefacts.append("peft")
    say(_line(result, arms.MASKED))
    result.reload_identical = reloads_identically(materials, folder / "adapter", logits)
    result.peft_difference = peft_difference(materials, folder / "peft", logits)
    say(
        f"saved adapter on a fresh model: logits {'' if result.reload_identical else 'NOT '}"
        f"identical; stock PEFT with the export: within {result.peft_difference:.1e}"
    )


def _probe(
    materials: Materials, plan: MaskPlan, folder: Path, result: DemoResult, say: Say
) -> None:
    result.arms[arms.PROBE] = arms.frozen_probe(materials)
    say(_line(result, arms.PROBE))


def _lora(materials: Materials, plan: MaskPlan, folder: Path, result: DemoResult, say: Say) -> None:
    with TemporaryDirectory() as temporary:
        result.arms[arms.LORA] = arms.dense_lora(materials, Path(temporary))
    say(_line(result, arms.LORA))


def _line(result: DemoResult, name: str) -> str:
    arm = result.arms[name]
    return f"{name}: {arm.accuracy:.1f} % of the test snippets, {arm.seconds:.0f} s"


def _summarise(plan: MaskPlan, certificates: dict[str, Certificate], seconds: float) -> MaskSummary:
    proofs = certificates.values()
    return MaskSummary(
        modules=len(plan),
        masks=len(certificates),
        proved=sum(proof.verdict == "PROVED" for proof in proofs),
        worst_ratio=max(proof.ratio for proof in proofs),
        worst_to_bound=max(proof.sigma2[1] / proof.bound for proof in proofs),
        seconds=seconds,
    )


def _draw(plan: MaskPlan, path: Path) -> None:
    """The spectra as a PNG, drawn without a display."""
    from matplotlib.figure import Figure

    from expandermask import plots

    figure = Figure(figsize=_PICTURE, layout="constrained")
    plots.spectra(plan, ax=figure.subplots())
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _write(result: DemoResult, folder: Path) -> None:
    write_text(folder / "results.json", json.dumps(result.to_dict(), indent=1) + "\n")
    write_text(folder / "report.md", to_markdown(result, folder))


def _require_packages() -> None:
    """Refuse at the door, not after minutes, where an optional package is missing."""
    missing = [n for n in ("transformers", "peft", "safetensors", "matplotlib") if not find_spec(n)]
    if missing:
        raise MissingPackageError(
            f"the demo needs {', '.join(missing)}; run: pip install 'expandermask[all]'"
        )
