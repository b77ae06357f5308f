"""The stand-alone checker against certificates corrupted in any field the claim rests on.

    python reliability/recheck_fuzz.py [--times M] [--jobs N]

Every certificate has to be confirmed as certify() issued it. Then it is corrupted in two ways. With
the old seal kept, any change to any value, at any depth, has to be rejected. Sealed again, as by a
forger, it is changed where the claim rests: each such change makes the statement false, or leaves
it without its evidence, and has to be rejected too. Changes that leave a true statement with its
evidence (a wider enclosure, a multiple of the vector) are counted apart: they are confirmed, and
rightly. Writes results/recheck_fuzz.json; exits with 1 if anything else comes out.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from _common import parser, print_table, workers, write_record
from _masks import draw
from tqdm import tqdm

import expandermask as xm
from expandermask.certificates.recheck import recheck
from expandermask.files import seal
from tests import cases

CERTIFICATES, CHUNK, CHANGES = 1000, 20, 12
Fields = dict[str, Any]
BELOW, ABOVE = 1 - 1e-9, 1 + 1e-9
NUMBERS = ("n1", "n2", "d1", "d2", "components", "format_version")


def digit(text: str, random: Random) -> str:
    """A hexadecimal text with one digit changed."""
    place = random.randrange(len(text))
    return (
        text[:place]
        + random.choice("0123456789abcdef".replace(text[place], ""))
        + text[place + 1 :]
    )


def any_value(value: Any, random: Random) -> Any:
    """Something else in the place of a JSON value, at any depth."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        name = random.choice(sorted(value))
        return {**value, name: any_value(value[name], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        place = random.randrange(len(value))
        return [*value[:place], any_value(value[place], random), *value[place + 1 :]]
    if isinstance(value, str) and value and random.random() < 0.7:
        return digit(value, random)
    if type(value) in (int, float) and random.random() < 0.7:
        return value + random.choice((1, -1, 1e-3, 64))
    others = [None, True, False, 0, 1, -7, 0.5, "", "x", [], {}, [0.0, 9.0]]
    return random.choice([v for v in others if repr(v) != repr(value)])


def forge_number(d: Fields, random: Random) -> None:
    """A size, a degree, the number of components or the format version."""
    name = random.choice(NUMBERS)
    d[name] = d[name] + random.choice((-1, 1, 7)) if random.random() < 0.9 else float(d[name])


def forge_digest(d: Fields, random: Random) -> None:
    """The digest of another graph."""
    d["digest"] = digit(d["digest"], random)


def forge_verdict(d: Fields, random: Random) -> None:
    """The contrary verdict, by any of its methods and with what evidence it may be given."""
    if d["verdict"] == "PROVED":
        d["verdict"], d["method"] = (
            "REFUTED",
            random.choice(("rayleigh", "descartes", "components")),
        )
        return
    d["verdict"], d["method"] = "PROVED", random.choice(("cholesky", "descartes", "blocks"))
    e = d["evidence"]
    e["c"] = xm.certificates.bounds.RamanujanBound(d["d1"], d["d2"]).square_below()
    if random.random() < 0.3:
        d["components"] = 1
    if d["method"] == "descartes":
        vectors = random.choice(([], [e["vector"]], [e["vector"]] * 2))
        e |= {"tie_basis": vectors, "ties": len(vectors), "roots_above": 0, "bits": 64}


def forge_bound(d: Fields, random: Random) -> None:
    """Another bound, by as little as a unit in the last place."""
    d["bound"] *= 1 + random.choice((-1, 1)) * 2.0 ** -random.randint(1, 52)


def forge_c(d: Fields, random: Random) -> None:
    """A c above the bound's square, or below sigma_2 squared."""
    square = d["bound"] ** 2 * (1 + 10.0 ** -random.randint(0, 12))
    under = d["sigma2"][0] ** 2 * (1 - 10.0 ** -random.randint(0, 9))
    d["evidence"]["c"] = random.choice((square, under if under else -1.0, int(square), str(square)))


def forge_vector(d: Fields, random: Random) -> None:
    """One entry of the witness changed: it no longer sums to zero, or is no integer."""
    vector = list(d["evidence"]["vector"])
    place = random.randrange(len(vector))
    vector[place] = random.choice(
        (vector[place] + random.choice((-1, 1, 2**40)), 0.5, True, None, "1")
    )
    d["evidence"]["vector"] = random.choice((vector, vector[:-1], [*vector, 0], [0] * len(vector)))


def forge_square(d: Fields, random: Random) -> None:
    """Another quotient than that of the vector, or the same written otherwise."""
    num, den = map(int, d["evidence"]["square"])
    d["evidence"]["square"] = random.choice(
        (
            [str(num + 1), str(den)],
            [str(num), str(den + 1)],
            [str(2 * num), str(2 * den)],
            [num, den],
        )
    )


def forge_ties(d: Fields, random: Random) -> None:
    """Tie vectors missing, repeated or changed; their count; roots above; the bits."""
    e = d["evidence"]
    vectors = [list(v) for v in e["tie_basis"]]
    kind = random.randrange(8)
    if kind == 0:
        e["ties"] += random.choice((-1, 1))
    elif kind == 1:
        e["roots_above"] = random.choice((1, False, -1))
    elif kind == 2:
        e["bits"] = random.choice((0, -64, 63, 2000, 10**9, 64.0, True, "64"))
    elif kind == 3:
        vectors.pop(random.randrange(e["ties"]))  # those at the bound come first
        e |= {"tie_basis": vectors, "ties": random.choice((e["ties"], len(vectors)))}
    elif kind == 4:
        e |= {"tie_basis": [*vectors, random.choice(vectors)], "ties": len(vectors) + 1}
    elif kind == 5:
        vectors[0][random.randrange(len(vectors[0]))] += random.choice((-1, 1))
        e["tie_basis"] = vectors
    elif kind == 6:
        e["tie_basis"] = [*vectors[:-1], [0] * len(vectors[0])]
    else:
        d["sigma2"] = [d["limit"], d["bound"] * BELOW]


def forge_enclosure(d: Fields, random: Random) -> None:
    """An end of sigma_2 moved past the other, where nothing can show it."""
    lo, hi = d["sigma2"]
    kind = random.randrange(3)
    if kind == 0:
        d["sigma2"] = [hi * (1 + 10.0 ** -random.randint(0, 6)) + 1e-6, 10 * hi + 1]
    elif kind == 1:
        d["sigma2"] = [0.0, lo * random.uniform(0.1, BELOW) if lo else -1.0]
    else:
        d["sigma2"] = random.choice(
            ([hi + 1, lo], [lo], [int(lo), int(hi) + 1], None, [lo, hi, hi])
        )


def forge_limits(d: Fields, random: Random) -> None:
    """A limit above sigma_2, a wrong trace or integrality limit, or a wrong best one."""
    kind, named = random.randrange(4), d["limits"]
    if kind == 0:
        named[random.choice(sorted(named))] = d["sigma2"][1] * ABOVE + 1e-6
        d["limit"] = max(named.values())
    elif kind == 1:
        name = random.choice(("trace", "integrality"))
        named[name] = named[name] * random.choice((BELOW, ABOVE)) if named[name] else 0.5
        d["limit"] = max(named.values())
    elif kind == 2:
        d["limit"] = d["limit"] * random.choice((BELOW, ABOVE)) if d["limit"] else 0.5
    else:
        named.pop(random.choice(sorted(named)))


def forge_definition(d: Fields, random: Random) -> None:
    """A definition the evidence is not of, or none; an eps where there is none."""
    kind = random.randrange(4)
    if kind == 0:
        d["definition"] = random.choice(("two-sided", "", "any", "One-sided"))
    elif kind == 1:
        d["eps"] = random.choice((0.5, -0.5, 0, None, "0"))
    elif kind == 2:
        d["sigma_min"] = [0.0, 1.0]
    else:
        d["simple"] = random.choice((False, 1, None))


def forge_names(d: Fields, random: Random) -> None:
    """A field missing, one too many, or evidence of another kind."""
    kind = random.randrange(4)
    if kind == 0:
        d.pop(random.choice(sorted(set(d) - {"seal"})))
    elif kind == 1:
        d["more"] = 1
    elif kind == 2:
        d["evidence"].pop(random.choice(("side", "vector", "square")))
    else:
        d["evidence"]["c_least"] = 0.0


FORGERIES: dict[str, Callable[[Fields, Random], None]] = {
    name.removeprefix("forge_"): forge
    for name, forge in list(globals().items())
    if name.startswith("forge_")
}


def widened(d: Fields, random: Random) -> None:
    """A lower lower end and a higher upper one."""
    d["sigma2"] = [d["sigma2"][0] * random.random(), d["sigma2"][1] + 10.0 + d["bound"]]


def negated(d: Fields, random: Random) -> None:
    """The same witness, written as -3 times itself."""
    d["evidence"]["vector"] = [-x * 3 for x in d["evidence"]["vector"]]


def retold(d: Fields, random: Random) -> None:
    """The sentence for the reader, which proves nothing."""
    d["reason"] = f"because {random.random()}"


HARMLESS: dict[str, Callable[[Fields, Random], None]] = {
    "a wider enclosure": widened,
    "a multiple of the vector": negated,
    "another sentence": retold,
}


def applies(name: str, d: Fields) -> bool:
    """Whether there is anything of that kind to forge in a certificate."""
    if name == "ties":
        return bool(d["verdict"] == "PROVED" and d["evidence"].get("tie_basis"))
    return name != "c" or (d["verdict"] == "PROVED" and "c" in d["evidence"])


def sealed(d: Fields) -> str:
    """The fields as JSON under a seal that fits."""
    body = {name: value for name, value in d.items() if name != "seal"}
    return json.dumps({**body, "seal": seal(body)})


def graph_of(random: Random) -> xm.BiregularGraph:
    """A random small mask, or one with a tie."""
    if random.random() < 0.15:
        return xm.BiregularGraph.from_mask(random.choice(cases.TIES).mask)
    return xm.BiregularGraph.from_mask(draw(random)[1])


def chunk(seed: int) -> tuple[Counter[str], list[str]]:
    """Counts over the certificates of one seed, and the corrupted ones that were not rejected."""
    random, counts, faults = Random(seed), Counter[str](), []
    for _ in range(CHUNK):
        graph = graph_of(random)
        proof = xm.certify(graph)
        if proof.verdict == "UNDECIDED":
            continue
        text, rows = proof.to_json(), graph.neighbors.tolist()

        def tried(kind: str, corrupted: str, wanted: str) -> None:
            found = recheck(corrupted, rows, graph.n2).outcome  # noqa: B023  # called at once
            counts[kind] += 1
            if found != wanted:
                faults.append(f"{kind}: {found}: {corrupted}")

        tried("certificates", text, "CONFIRMED")
        for _ in range(CHANGES):
            data = json.loads(text)
            name = random.choice(sorted(data))
            tried("old seal", json.dumps({**data, name: any_value(data[name], random)}), "REJECTED")
        names = [name for name in FORGERIES if applies(name, json.loads(text))]
        for name in random.choices(names, k=CHANGES):
            data = json.loads(text)
            FORGERIES[name](data, random)
            tried(f"sealed again: {name}", sealed(data), "REJECTED")
        for name, change in HARMLESS.items():
            data = json.loads(text)
            change(data, random)
            tried(f"still true: {name}", sealed(data), "CONFIRMED")
    return counts, faults


def main() -> int:
    """Run all chunks, print the counts, write the record."""
    arguments = parser(__doc__).parse_args()
    chunks = max(1, round(CERTIFICATES * arguments.times / CHUNK))
    counts, faults = Counter[str](), []
    with workers(arguments.jobs) as spread:
        for found, wrong in tqdm(spread(chunk, range(chunks)), total=chunks, disable=None):
            counts += found
            faults += wrong
    corrupted = sum(n for name, n in counts.items() if name.startswith(("old", "sealed")))
    print_table(["what", "count"], sorted(counts.items()))
    print_table(["corrupted", "not as wanted"], [(corrupted, len(faults))])
    body = {
        "certificates": counts["certificates"],
        "corrupted": corrupted,
        "not as wanted": len(faults),
        "counts": dict(sorted(counts.items())),
        "faults": faults[:20],
        "passed": not faults,
    }
    path = write_record(arguments, "recheck_fuzz", body)
    print(f"{'FAILED' if faults else 'passed'}: {path.name}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
