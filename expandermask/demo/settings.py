"""The demo's fixed choices, at its two sizes, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass

from expandermask.demo.data import TEST, TRAIN


@dataclass(frozen=True)
class Settings:
    """What a run of the demo does. The defaults are the full run.

    Learning rates and the probe's penalty were chosen on the validation snippets alone, by
    ``benchmarks/demo_tuning.py``; its record is ``benchmarks/results/demo_tuning.json``.
    """

    train: int = TRAIN
    test: int = TEST
    epochs: int = 3
    batch_size: int = 32
    r: int = 64
    left_degree: int = 2
    lora_alpha: float = 16.0
    masked_learning_rate: float = 5e-3
    lora_learning_rate: float = 1e-3
    probe_penalty: float = 0.1

    @property
    def is_full(self) -> bool:
        """Whether the run is large enough for its accuracies to mean something."""
        return self.train == TRAIN and self.test == TEST


FULL = Settings()
QUICK = Settings(train=640, test=300, epochs=1, batch_size=4)
