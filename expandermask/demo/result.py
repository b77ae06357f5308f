"""What a run of the demo found: plain values, filled in as they come, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from expandermask.demo.settings import Settings


@dataclass(frozen=True)
class ArmResult:
    """One arm: how it was trained, what that took, and how often it is right on the test set."""

    name: str
    accuracy: float
    """Percent of the test snippets."""
    seconds: float
    """Of training, on the clock; for the probe, of computing features and fitting."""
    tuned: str
    """The setting that was tuned for this arm, and its value."""
    trainable_values: int
    gradient_bytes: int
    optimizer_bytes: int
    file_bytes: int
    """The saved weights on disk, classifier included."""
    final_loss: float | None = None


@dataclass(frozen=True)
class MaskSummary:
    """The certificates of a plan in a few numbers."""

    modules: int
    masks: int
    proved: int
    worst_ratio: float
    """The largest sigma_2 / limit; 1 is the best any mask of its shape can be."""
    worst_to_bound: float
    """The largest sigma_2 / bound; at most 1 for a Ramanujan graph."""
    seconds: float
    """Of building the plan and certifying every mask."""


@dataclass
class DemoResult:
    """Everything a run has found so far."""

    settings: Settings
    seed: int
    model: str
    split: dict[str, str]
    """SHA-256 of the snippets trained and tested on."""
    masks: MaskSummary | None = None
    cost: dict[str, Any] | None = None
    """`parameter_report` of the plan: the masked adapter beside dense LoRA, without the head."""
    arms: dict[str, ArmResult] = field(default_factory=dict)
    reload_identical: bool | None = None
    """Whether the saved adapter, on a fresh model, gives the same test logits bit for bit."""
    peft_difference: float | None = None
    """Largest difference of any test logit between stock PEFT with the export and the adapter."""
    artefacts: list[str] = field(default_factory=list)
    """Files and folders written by this run, in order."""
    seconds: float = 0.0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values."""
        return asdict(self)
