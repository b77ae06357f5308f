"""What a run found, for people: a table on the terminal and a Markdown report."""

from __future__ import annotations

from pathlib import Path

from expandermask.demo.arms import LORA, MASKED, PROBE
from expandermask.demo.result import ArmResult, DemoResult, MaskSummary
from expandermask.demo.training import MAX_TOKENS

_HEADER = (
    "arm",
    "accuracy %",
    "seconds",
    "trainable",
    "gradient B",
    "optimizer B",
    "file B",
    "tuned",
)
_ARTEFACTS = {
    "plan.json": "the masks, as recipes and hashes",
    "certificates.json": "a certificate of each: verdict, method, evidence, enclosure of sigma_2",
    "spectra.png": "their singular values against bound and limit",
    "adapter": "the trained masked adapter (safetensors values, JSON recipes)",
    "peft": "the same adapter as a dense LoRA checkpoint that stock PEFT loads",
}


def summary(result: DemoResult, folder: Path) -> str:
    """The closing lines on the terminal: a table of the arms, and where everything is."""
    lines = [""]
    if result.arms:
        rows = [_HEADER, *(_cells(arm) for arm in _ordered(result))]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADER))]
        for row in rows:
            cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
    lines += [text for text in (_verdict(result), _note(result)) if text]
    written = ", ".join([*result.artefacts, "results.json", "report.md"])
    lines.append(f"{result.seconds:.0f} s; in {folder}/: {written}")
    return "\n".join(lines)


def to_markdown(result: DemoResult, folder: Path) -> str:
    """The report: pictures and tables of what is finished, and how to load the adapter again."""
    parts = [
        "# Certified masks on a real transformer",
        _note(result),
        _setting(result),
        _masks(result.masks) if result.masks else "",
        _picture(result),
        _arms(result),
        _costs(result),
        _files(result),
        _reload(result, folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _note(result: DemoResult) -> str:
    """What keeps the figures from being read at face value, if anything does."""
    if result.interrupted:
        missing = [name for name in (MASKED, PROBE, LORA) if name not in result.arms]
        return (
            f"Interrupted before the end: {', '.join(missing) or 'nothing'} not finished. What is "
            "listed as written is whole; other files in the folder are from an earlier run."
        )
    if not result.settings.is_full:
        return (
            f"A quick run ({result.settings.train:,} training and {result.settings.test:,} test "
            f"snippets, {result.settings.epochs} epoch{_s(result.settings.epochs)}): it shows that "
            "the path works; its accuracies mean little."
        )
    return ""


def _setting(result: DemoResult) -> str:
    s = result.settings
    return (
        f"{result.model}, a new two-class head, and film-review snippets (fresh or rotten, half "
        f"each): {s.train:,} to train on, {s.test:,} to test on, no text in both. Adapters of rank "
        f"{s.r} on every linear layer of the encoder; {s.epochs} epoch{_s(s.epochs)} of AdamW "
        f"(no weight decay, linear warm-up over a tenth and decay, gradients clipped to norm 1), "
        f"batches of {s.batch_size}, at most {MAX_TOKENS} tokens, seed {result.seed}."
    )


def _masks(masks: MaskSummary) -> str:
    return (
        "## Masks\n\n"
        f"{masks.proved} of {masks.masks} masks ({masks.modules} layers, A and B of each) are "
        f"**PROVED** Ramanujan. The worst has sigma_2 = {masks.worst_to_bound:.4f} of the "
        f"Ramanujan bound and {masks.worst_ratio:.4f} times the limit that no mask of its shape "
        f"can be below. Building and certifying all of them took {masks.seconds:.2f} s."
    )


def _picture(result: DemoResult) -> str:
    if "spectra.png" not in result.artefacts:
        return ""
    return "![Singular values of every mask against bound and limit](spectra.png)"


def _arms(result: DemoResult) -> str:
    if not result.arms:
        return ""
    rows = [_HEADER, tuple("---" for _ in _HEADER), *(_cells(arm) for arm in _ordered(result))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    title = f"## Accuracy on {result.settings.test:,} test snippets"
    return (
        f"{title}\n\n{table}\n\n{_verdict(result)}\n\n"
        "Bytes (B) were measured on the tensors and files of this run and include the "
        "classifier; the probe is a penalised logistic regression on mean-pooled features of the "
        "frozen model, solved to convergence. Learning rates and penalty were tuned on separate "
        "validation snippets. Both adapters share head, batches, dropout and epochs."
    )


def _verdict(result: DemoResult) -> str:
    if MASKED not in result.arms:
        return ""
    ours = result.arms[MASKED].accuracy
    against = [
        f"{ours - result.arms[other].accuracy:+.1f} points against the {other}"
        for other in (PROBE, LORA)
        if other in result.arms
    ]
    return f"The masked adapter: {'; '.join(against)}." if against else ""


def _costs(result: DemoResult) -> str:
    if result.cost is None:
        return ""
    ours, dense = result.cost["masked"], result.cost["lora"]
    rows = [
        f"| {label} | {ours[name]:,} | {dense[name]:,} | {_ratio(ours[name], dense[name])} |"
        for label, name in (
            ("trainable values", "trainable_values"),
            ("gradient bytes", "gradient_bytes"),
            ("AdamW moment bytes", "optimizer_bytes"),
            ("adapter file bytes", "file_bytes"),
            ("index buffer bytes", "index_bytes"),
        )
    ]
    head = "| without the classifier | masked | dense LoRA | ratio |\n| --- | --- | --- | --- |"
    return "\n".join(["## What the adapter costs\n", head, *rows])


def _files(result: DemoResult) -> str:
    lines = [f"- `{name}`: {_ARTEFACTS[name]}" for name in result.artefacts]
    if result.reload_identical is not None:
        same = "bit for bit" if result.reload_identical else "**not** identically"
        lines.append(f"- checked: `adapter` on a fresh model repeats every test logit {same}")
    if result.peft_difference is not None:
        lines.append(f"- checked: stock PEFT with `peft` agrees to {result.peft_difference:.1e}")
    lines.append("- `results.json`: every figure of this report")
    return "\n".join(["## Files\n", *lines])


def _reload(result: DemoResult, folder: Path) -> str:
    if "adapter" not in result.artefacts:
        return ""
    packaged = result.model == "MiniLM-L6-v2"
    name = "MODEL.locate()" if packaged else repr(result.model)
    lines = [
        "from transformers import AutoModelForSequenceClassification",
        "from expandermask.adapters import load_adapter",
        *(["from expandermask.demo.data import MODEL"] if packaged else []),
        f"model = AutoModelForSequenceClassification.from_pretrained({name}, num_labels=2)",
        f'load_adapter(model, "{folder.as_posix()}/adapter")',
    ]
    code = "\n".join(lines)
    stock = f'peft.PeftModel.from_pretrained(model, "{folder.as_posix()}/peft")'
    return (
        f"## Load it again\n\n```python\n{code}\n```\n\n"
        f"Or with stock PEFT alone: `{stock}` in place of the last line."
    )


def _ordered(result: DemoResult) -> list[ArmResult]:
    return [result.arms[name] for name in (PROBE, LORA, MASKED) if name in result.arms]


def _cells(arm: ArmResult) -> tuple[str, ...]:
    return (
        arm.name,
        f"{arm.accuracy:.1f}",
        f"{arm.seconds:.0f}",
        f"{arm.trainable_values:,}",
        f"{arm.gradient_bytes:,}",
        f"{arm.optimizer_bytes:,}",
        f"{arm.file_bytes:,}",
        arm.tuned,
    )


def _ratio(ours: int, dense: int) -> str:
    return f"{ours / dense:.5f}" if dense else "-"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
