"""A million malformed files, and what the readers make of them.

    python reliability/files_fuzz.py [--times M] [--jobs N]

Every mutant goes to one reader: the reader of adapter files, `load_adapter` on a model, the parser
of safetensors headers, the readers of plans, masks, certificates and sparsity results. A reader may
raise the library's own errors and nothing else. If it takes a mutant, then it must say what the
original says; the header's parser, which has no original, what the stock reader says. Where the
seal was made anew, as anyone can, that leaves out what a forger is free to choose, such as
lora_alpha, but never masks or tensors. A model must be the same after a refusal. Last, the memory
that reading takes, in a process of its own, beside the size of the file. Writes
results/files_fuzz.json; exits with 1 if anything is otherwise.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from _adapters import WEIGHTS, adapted, bound, content, digest, model, placed
from _adapters_memory import memory
from _common import parser, print_table, workers, write_record
from _mutants import Mutants, bytes_changed, doubled, split, token_changed, value_changed
from safetensors import SafetensorError, deserialize
from tqdm import tqdm

import expandermask as xm
from expandermask.adapters import load_adapter, save_adapter
from expandermask.adapters.files.stored import open_adapter
from expandermask.errors import ExpanderMaskError
from expandermask.importance import AxisSparsity, ModuleSparsity, SparsityResult
from expandermask.masks import bernoulli, load_mask, row_column, save_mask
from expandermask.safetensors_header import parse_whole_header

CHUNK = 5000
PLACE = "EXPANDERMASK_MUTANTS"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
COUNTS = {
    "adapter": 600_000,
    "load_adapter": 30_000,
    "header": 150_000,
    "plan": 100_000,
    "sparsity": 30_000,
    "certificate": 80_000,
    "mask": 60_000,
}
Outcome = tuple[str, str]
"""A kind of change, and "refused", "same", "free", "no hash", "DIFFERENT", "CHANGED MODEL" or
"FOREIGN ..."."""


def place() -> Path:
    """This process's folder for mutants, in the one that `main` makes and removes."""
    folder = Path(os.environ[PLACE]) / str(os.getpid())
    folder.mkdir(exist_ok=True)
    return folder


@cache
def adapter_bytes() -> bytes:
    """The file of the small adapter."""
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapted(), folder)
        return (Path(folder) / WEIGHTS).read_bytes()


def judged(read: Callable[[], Any], original: Any) -> str:
    """What came of reading a mutant whose original reads as ``original``."""
    try:
        found = read()
    except ExpanderMaskError:
        return "refused"
    except Exception as error:
        return f"FOREIGN {type(error).__name__}: {error!s:.200}"
    return "same" if found == original else "DIFFERENT"


# -- one reader each: a function from a Random to an outcome ---------------------------------------


@cache
def mutants() -> Mutants:
    """Mutants of the small adapter."""
    return Mutants(adapter_bytes())


def read_adapter(data: bytes) -> Any:
    """The config, plan and tensors in the bytes of a file, without a model."""
    file = open_adapter(BytesIO(data), len(data), "the adapter")
    return file.config, *file.read()


@cache
def adapter_content() -> Any:
    """What the small adapter says."""
    return content(read_adapter(adapter_bytes()))


def adapter(random: Random) -> Outcome:
    """A mutant adapter, read without a model."""
    kind, data = mutants().draw(random)
    outcome = judged(lambda: content(read_adapter(data)), adapter_content())
    if kind == "forged_document" and outcome == "DIFFERENT":
        same = bound(content(read_adapter(data))) == bound(adapter_content())
        outcome = "free" if same else outcome
    return kind, outcome


@cache
def targets() -> tuple[Any, Any, str]:
    """A bare model, one with the adapter on it but other values, and what either must become."""
    return model(), adapted(seed=2), digest(adapted())


def onto_a_model(random: Random) -> Outcome:
    """A mutant adapter, loaded onto a model that may have the adapter already."""
    bare, full, wanted = targets()
    kind, data = mutants().draw(random)
    target = random.choice((bare, full))
    before = digest(target)

    def load() -> str:
        load_adapter(target, placed(place() / "adapter", data))
        return digest(target)

    outcome = judged(load, wanted)
    if outcome in ("same", "DIFFERENT"):
        targets.cache_clear()
        return kind, outcome
    return kind, outcome if digest(target) == before else "CHANGED MODEL"


def header(random: Random) -> Outcome:
    """A mutant header, parsed by both readers."""
    kind, data = mutants().draw(random)
    text, rest = split(data)
    if len(text) + len(rest) + 8 != len(data):
        return kind, "refused"
    try:
        entries = deserialize(data)
        stock = {name: (e["dtype"], list(e["shape"]), len(e["data"])) for name, e in entries}
    except (SafetensorError, ValueError, OverflowError):
        stock = None

    def ours() -> Any:
        found = parse_whole_header(text, len(rest), "a file").entries
        sizes = {n: (e.dtype, list(e.shape), e.last - e.first) for n, e in found.items()}
        unknown = {d for d, *_ in sizes.values()} - {"F32", "F64", "I32", "BF16", "U8"}
        return stock if unknown and stock is None else sizes  # the format gains dtypes

    return kind, judged(ours, stock)


@cache
def plans() -> tuple[str, str]:
    """JSON of a plan of certified masks, and of one with masks of every other kind."""
    certified = xm.MaskPlan.for_shapes({"first": (4, 8), "second": (8, 4)}, r=4, rng=0)
    entries = bernoulli(8, 4, 0.5, rng=1)
    mixed = {"first": (entries, row_column(4, 4, 0.5, rng=2)), "second": (entries.mask(), entries)}
    return certified.to_json(), xm.MaskPlan.from_masks(mixed, rng=0).to_json()


@cache
def sparsity_result() -> str:
    """JSON of what Algorithm 1 found."""
    rows = AxisSparsity(8, 3, ((4, 0.9), (2, 0.25), (3, 0.75)))
    modules = {"first": ModuleSparsity(rows, AxisSparsity(4, 0, ((2, 0.8), (0, 0.9))))}
    return SparsityResult(0.8, 0.9, "bisection", modules).to_json()


@cache
def documents() -> tuple[str, str, str]:
    """JSON of a certificate, a mask with a recipe and one with neighbours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.json"
        save_mask(path, xm.graphs.random_biregular(8, 4, 2, rng=0))
        drawn = path.read_text()
        save_mask(path, xm.BiregularGraph([[0, 1], [1, 2], [0, 2]], 3))
        return xm.certify(xm.graphs.heawood()).to_json(), drawn, path.read_text()


def mutant_text(text: str, random: Random) -> tuple[str, bytes]:
    """A change to a JSON document."""
    kind = random.choice(("bytes", "token", "value", "value", "twice", "encoding"))
    if kind == "bytes":
        return kind, bytes_changed(text.encode(), random)
    if kind == "token":
        return kind, token_changed(text.encode(), random)
    if kind == "value":
        return kind, json.dumps(value_changed(json.loads(text), random)).encode()
    if kind == "twice":
        return kind, doubled(json.dumps(json.loads(text)), random).encode()
    return kind, text.encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-le")))


def plan(random: Random) -> Outcome:
    """A mutant plan."""
    text = random.choice(plans())
    kind, data = mutant_text(text, random)
    return kind, judged(lambda: xm.MaskPlan.from_json(data).to_json(), text)


def certificate(random: Random) -> Outcome:
    """A mutant certificate."""
    text = documents()[0]
    kind, data = mutant_text(text, random)
    return kind, judged(lambda: xm.Certificate.from_json(data).to_json(), text)


def sparsity(random: Random) -> Outcome:
    """A mutant result of Algorithm 1."""
    text = sparsity_result()
    kind, data = mutant_text(text, random)
    return kind, judged(lambda: SparsityResult.from_json(data).to_json(), text)


@cache
def dense_masks() -> tuple[dict[str, bytes], Any]:
    """A mask's bytes as .npz and .npy, by ending, and the mask."""
    graph, found = xm.graphs.random_biregular(8, 4, 2, rng=0), {}
    for ending in (".npz", ".npy"):
        save_mask(place() / f"m{ending}", graph)
        found[ending] = (place() / f"m{ending}").read_bytes()
    return found, graph


def mask(random: Random) -> Outcome:
    """A mutant mask file of one of the four forms; a .npy has no hash and may say anything."""
    dense, graph = dense_masks()
    form = random.choice(("recipe", "neighbors", ".npz", ".npy"))
    if form in dense:
        kind, data, path = "bytes", bytes_changed(dense[form], random), place() / f"x{form}"
    else:
        text = documents()[1 if form == "recipe" else 2]
        kind, data = mutant_text(text, random)
        path = place() / "x.json"
        graph = graph if form == "recipe" else xm.BiregularGraph([[0, 1], [1, 2], [0, 2]], 3)
    path.write_bytes(data)
    outcome = judged(lambda: load_mask(path), graph)
    free = form == ".npy" and outcome == "DIFFERENT"
    return f"{form}: {kind}", "no hash" if free else outcome


READERS: dict[str, Callable[[Random], Outcome]] = {
    "adapter": adapter,
    "load_adapter": onto_a_model,
    "header": header,
    "plan": plan,
    "sparsity": sparsity,
    "certificate": certificate,
    "mask": mask,
}


def chunk(task: tuple[str, int, int]) -> tuple[str, Counter[Outcome], list[str]]:
    """The outcomes of one reader on the mutants of one seed, and what was not as it should be."""
    name, seed, count = task
    counts, faults = Counter[Outcome](), []
    warnings.simplefilter("ignore")  # numpy's, of arrays that Python 2 might have written
    for number in range(count):
        kind, outcome = READERS[name](Random(f"{name} {seed} {number}"))
        counts[kind, outcome.partition(":")[0]] += 1
        if outcome not in ("refused", "same", "free", "no hash"):
            faults.append(f"Random('{name} {seed} {number}'), {kind}: {outcome}")
    return name, counts, faults


def tasks(times: float) -> list[tuple[str, int, int]]:
    """Chunks of mutants: reader, seed and number."""
    found = []
    for name, count in COUNTS.items():
        left = max(1, round(count * times))
        for seed in range(-(-left // CHUNK)):
            found.append((name, seed, min(CHUNK, left - seed * CHUNK)))
    return found


def main() -> int:
    """Run all chunks, measure memory, print the counts, write the record."""
    options = parser(__doc__)
    options.add_argument("--no-memory", action="store_true", help="leave out the large files")
    arguments = options.parse_args()
    work = tasks(arguments.times)
    counts: dict[str, Counter[Outcome]] = {name: Counter() for name in READERS}
    faults: list[str] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        os.environ[PLACE] = folder
        with workers(arguments.jobs) as spread:
            for name, found, wrong in tqdm(spread(chunk, work), total=len(work), disable=None):
                counts[name] += found
                faults += wrong
    ratios = {} if arguments.no_memory else memory(adapter_bytes())
    columns = sorted({outcome for found in counts.values() for _, outcome in found})
    sums = {
        n: {c: sum(k for (_, o), k in found.items() if o == c) for c in columns}
        for n, found in counts.items()
    }
    print_table(["reader", *columns], [[n, *row.values()] for n, row in sums.items()])
    print_table(["file", "peak / size"], ratios.items())
    total = sum(sum(found.values()) for found in counts.values())
    kinds = {n: sorted({k for k, _ in found}) for n, found in counts.items()}
    passed = not faults and max(ratios.values(), default=0.0) < 2
    body = {
        "mutants": total,
        "outcomes": sums,
        "kinds": kinds,
        "memory, peak over size": ratios,
        "faults": len(faults),
        "first faults": faults[:20],
        "passed": passed,
    }
    print(f"{total} mutants, {len(faults)} faults; ", end="")
    print(f"record: {write_record(arguments, 'files_fuzz', body).name}")
    for fault in faults[:20]:
        print(fault)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
