"""What programs other than PEFT do not read of a LoRA folder, known before it is written.

llama.cpp drops or turns some tensors without a word, and then computes something else. The rules
here say so in advance. `reliability/serving.py` holds them against the programs themselves.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from expandermask.errors import AdapterError, InvalidInputError

_OTHER_TOWERS = re.compile(
    r"(vision|audio)[_.]|(visual|talker|projector)\.|patch_(embed|merger)|^(vit|vpm|merger)\."
)
"""Names that llama.cpp's converter leaves to the file of the image or sound encoder."""
_NORM = re.compile(r"_layernorm|\.norm")
"""Names that its converter takes for norms, which its loader then skips."""
_LATENT = re.compile(r"(^|\.)(q_proj|q_[ab]_proj|kv_a_proj_with_mqa|kv_b_proj|lm_head)$")
"""Modules that it computes without adapters where the attention is latent, as DeepSeek's is."""
_NEVER_ADAPTED = re.compile(r"altup|indexer|latent_proj")
"""Modules that it computes without adapters in every model: Gemma 3n's, DeepSeek's, Nemotron's."""
_MAX_RANK = 512
"""The largest max_lora_rank that vLLM takes."""


@dataclass(frozen=True)
class Contents:
    """What a folder will hold: its config, the adapted modules, and all else that trained."""

    config: dict[str, Any]
    adapted: tuple[str, ...]
    tables: tuple[str, ...]
    """The adapted embeddings."""
    saved: dict[str, bool]
    """All other tensors that trained, and whether PEFT can have several in one batch."""
    biases: tuple[str, ...]
    latent: bool
    """Whether the model's attention is latent."""
    conv1d: dict[str, bool]
    """The adapted modules that are Conv1D, and whether they are square."""


@dataclass(frozen=True)
class Obstacle:
    """Something that a program does not read, and whether it says so itself."""

    what: str
    instead: str
    silent: bool


def _peft_batches(contents: Contents) -> Iterator[Obstacle]:
    if contents.biases:
        what = f"gives trained biases, such as {contents.biases[0]!r}, to all adapters of a model"
        yield Obstacle(what, 'train with bias="none"', silent=True)
    if other := [key for key, batched in contents.saved.items() if not batched]:
        what = (
            f"takes no trained modules in batches but linear ones and embeddings, not {other[0]!r}"
        )
        yield Obstacle(what, "leave it out of modules_to_save", silent=False)
    if places := contents.config.get("target_parameters"):
        what = f"takes no target_parameters in batches, such as {places[0]!r}"
        yield Obstacle(what, "leave it out by exclude_modules", silent=False)


def _peft_hotswap(contents: Contents) -> Iterator[Obstacle]:
    if contents.config["alpha_pattern"] or contents.config["rank_pattern"]:
        yield Obstacle("swaps no adapters with patterns", "write with compact=False", silent=False)
    if others := [*contents.saved, *contents.biases]:
        what = f"swaps no whole tensors, such as {others[0]!r}"
        yield Obstacle(what, "train the adapter alone", silent=False)
    if contents.tables:
        what = f"swaps no adapted embeddings, such as {contents.tables[0]!r}"
        yield Obstacle(what, "leave it out by exclude_modules", silent=False)


def _llama_cpp(contents: Contents) -> Iterator[Obstacle]:
    trained = "leave them out of modules_to_save, or merge, detach and serve the whole model"
    if contents.config["alpha_pattern"]:
        what = "takes one lora_alpha for all modules, and compact=True wrote several"
        yield Obstacle(what, "write with compact=False", silent=True)
    if norms := [key for key in contents.saved if _NORM.search(f".{key}")]:
        what = f"skips trained norms, such as {norms[0]!r}"
        yield Obstacle(what, trained, silent=True)
    if others := [key for key in contents.saved if key not in norms]:
        yield Obstacle(f"reads no whole tensors, such as {others[0]!r}", trained, silent=False)
    if contents.biases:
        what = f"reads no trained biases, such as {contents.biases[0]!r}"
        yield Obstacle(what, 'train with bias="none"', silent=False)
    if contents.conv1d:
        what = f"turns the update of a Conv1D, such as {next(iter(contents.conv1d))!r}, round"
        # Only the shape of a module that is not square tells its loader.
        silent = all(contents.conv1d.values())
        yield Obstacle(what, "merge, detach and serve the whole model", silent)
    if towers := [place for place in contents.adapted if _OTHER_TOWERS.search(place)]:
        what = f"drops the update of {towers[0]!r}, outside the language model"
        yield Obstacle(what, "leave it out by exclude_modules", silent=True)
    if unused := [place for place in contents.adapted if _without_adapter(place, contents.latent)]:
        what = f"ignores the update of {unused[0]!r}, as of others in such models"
        yield Obstacle(what, "leave it out by exclude_modules", silent=True)


def _without_adapter(place: str, latent: bool) -> bool:
    """Whether llama.cpp computes a module by its weight alone."""
    return bool(_NEVER_ADAPTED.search(place) or (latent and _LATENT.search(place)))


def _vllm(contents: Contents) -> Iterator[Obstacle]:
    whole = "merge, detach and serve the whole model"
    heads = {"classifier", "score"}
    if others := [m for m in contents.config["modules_to_save"] or () if m not in heads]:
        yield Obstacle(
            f"takes no modules to save but {sorted(heads)}, not {others[0]!r}", whole, False
        )
    if contents.biases:
        what = f"takes no trained biases, such as {contents.biases[0]!r}"
        yield Obstacle(what, 'train with bias="none"', silent=False)
    if contents.conv1d:
        what = f"has no LoRA for models with Conv1D, such as {next(iter(contents.conv1d))!r}"
        yield Obstacle(what, whole, silent=False)
    largest = max([contents.config["r"], *contents.config["rank_pattern"].values()])
    if largest > _MAX_RANK:
        what = f"takes ranks up to {_MAX_RANK}, and this adapter has {largest}"
        yield Obstacle(what, f"train with r at most {_MAX_RANK}", silent=False)


READERS: dict[str, Callable[[Contents], Iterator[Obstacle]]] = {
    "peft": lambda contents: iter(()),
    "peft-batches": _peft_batches,
    "peft-hotswap": _peft_hotswap,
    "llama.cpp": _llama_cpp,
    "vllm": _vllm,
}
"""The programs by the names that `export_peft` takes. "peft" and transformers read every folder."""


def check_readers(readers: Iterable[str] | None) -> tuple[str, ...] | None:
    """The names of known programs, or None."""
    if readers is None:
        return None
    names = (readers,) if isinstance(readers, str) else tuple(readers)
    for name in names:
        if name not in READERS:
            raise InvalidInputError(f"readers must be of {list(READERS)}, got {name!r}")
    return names


def require_readable(contents: Contents, readers: tuple[str, ...] | None) -> None:
    """Raise unless the programs named read it; if none are named, warn of silent faults."""
    if readers is None:
        _warn(contents)
        return
    for reader in readers:
        if obstacle := next(READERS[reader](contents), None):
            raise AdapterError(
                f"{reader}, one of readers={list(readers)}, {obstacle.what}; {obstacle.instead}"
            )


def _warn(contents: Contents) -> None:
    for reader, obstacles in READERS.items():
        for obstacle in obstacles(contents):
            if obstacle.silent:
                warnings.warn(
                    f"{reader} {obstacle.what}, without a word, and so computes something else; "
                    f"{obstacle.instead} for it, or name the programs that read this folder, for "
                    'instance readers=["peft"]',
                    stacklevel=4,
                )
