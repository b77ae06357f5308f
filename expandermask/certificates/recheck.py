"""Check a certificate of expandermask against its graph, in exact integers and on its own.

    python recheck.py CERTIFICATE.json MASK     (.npz, .npy, or a .json that lists its neighbours)

What is not shown is rejected: docs/theory/recheck.md. 0 confirmed, 1 rejected, 2 usage, 3 beyond.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import struct
import sys
import zipfile
from fractions import Fraction
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

MOST_VERTICES, BITS, MOST_BITS, MOST_BYTES = 512, 64, 1024, 2**26
LIMITS = ("trace", "integrality", "three_moment", "lattice", "schur", "walks")
SHOWN = {"side", "vector", "square", "c", "least", "c_least"}
TWO_SIDED = {"least", "c_least", "ties_below", "roots_below"}
CODES = {"b1": "B", "u1": "B", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "f4": "f", "f8": "d"}
Rows = list[list[int]]
Levels = dict[int, list[Fraction]]


class Result(NamedTuple):
    """CONFIRMED, REJECTED or BEYOND, why, and which stated fields were not derived again."""

    outcome: str
    reason: str
    unchecked: tuple[str, ...] = ()


def need(holds: object, otherwise: str) -> None:
    """Reject unless ``holds`` is True itself: no other truth will do."""
    if holds is not True:
        raise ValueError(otherwise)


def recheck(certificate: str | bytes, neighbors: Rows, n2: int) -> Result:
    """Hold a certificate, as JSON, against a graph: row i lists the neighbours of left vertex i."""
    try:
        return Check(parse(certificate), Graph(neighbors, n2)).result()
    except Exception as error:  # whatever broke off was not shown
        return Result("REJECTED", f"{error!s:.200} ({type(error).__name__})")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose keys is repeated."""
    need(len(dict(pairs)) == len(pairs), "a key is repeated")
    return dict(pairs)


def parse(text: str | bytes) -> dict[str, Any]:
    """The fields of a certificate under a seal that fits; none does if a number is not finite."""

    need(len(text) <= MOST_BYTES, "the certificate is longer than 64 MiB")
    data: dict[str, Any] = json.loads(text, object_pairs_hook=once)
    need(type(data) is dict and len(data) == 21 and type(data["reason"]) is str, "other fields")
    seal = data.pop("seal")
    line = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    need(seal == hashlib.sha256(line).hexdigest(), "altered: the seal does not fit")
    return data


class Graph:
    """A simple biregular graph by its ``rows`` and ``columns``: ``small`` and ``large`` by size."""

    def __init__(self, neighbors: Rows, n2: int) -> None:
        need(type(n2) is int and 0 < n2 <= sum(map(len, neighbors)), "the mask has empty columns")
        self.rows, self.columns = [sorted(r) for r in neighbors], [list[int]() for _ in range(n2)]
        for i, row in enumerate(self.rows):
            need(all(type(j) is int and 0 <= j < n2 for j in row), f"row {i}: a label is wrong")
            need(len(set(row)) == len(row), f"row {i} has parallel edges")
            for j in row:
                self.columns[j].append(i)
        for side in (self.rows, self.columns):
            need(len({len(line) for line in side}) == 1 < len(side[0]), "degrees not equal, or 1")
        self.sides = {"right": (self.rows, self.columns), "left": (self.columns, self.rows)}
        self.short = "right" if n2 <= len(self.rows) else "left"
        self.large, self.small = self.sides[self.short]

    def statement(self) -> dict[str, Any]:
        """What a certificate must state of this graph, digest and components included."""
        n1, n2, d1, d2 = len(self.rows), len(self.columns), len(self.rows[0]), len(self.columns[0])
        found = hashlib.sha256(f"expandermask graph {n1} {n2} {d1}\n".encode())
        for row in self.rows:
            found.update(struct.pack(f"<{d1}" + "BHI"[(n2 > 2**8) + (n2 > 2**16)], *row))
        unseen, ahead, count = set(range(n1)), set(range(n2)), 0
        while unseen:
            todo, count = [unseen.pop()], count + 1
            while todo:
                new = ahead.intersection(self.rows[todo.pop()])
                near = unseen.intersection(i for j in new for i in self.columns[j])
                ahead -= new
                unseen -= near
                todo += near
        known = dict(format="expandermask certificate", format_version=2, simple=True, n1=n1, n2=n2)
        known |= dict(d1=d1, d2=d2, digest=found.hexdigest(), components=count)
        return {**known, "bound": math.sqrt(d1 - 1) + math.sqrt(d2 - 1)}

    def gram(self) -> Rows:
        """Common neighbours of each two vertices j >= k of the smaller side."""
        sets = [sum(1 << i for i in line) for line in self.small]
        return [[(s & t).bit_count() for t in sets[: j + 1]] for j, s in enumerate(sets)]


def image(lines: Rows, x: list[int], n: int) -> list[int]:
    """The sum of x over each line; x must be a list of n integers."""
    need(type(x) is list and len(x) == n and all(type(v) is int for v in x), "no integer vector")
    return [sum(map(x.__getitem__, line)) for line in lines]


def proves(gram: Rows, level: Fraction, sign: int, shift: int, basis: Rows, bits: int) -> bool:
    """Whether level I - sign N + shift J + sum of b b' is shown to be positive definite."""
    n, corner = len(gram), math.floor(level * 4**bits)
    at = list(zip(*basis, strict=True)) or [()] * n
    rows = [
        [(shift - sign * g + sum(map(mul, at[i], at[j]))) << 2 * bits for j, g in enumerate(line)]
        for i, line in enumerate(gram)
    ]
    top = max(math.isqrt(max(row[-1] + corner, 0)) for row in rows) + 1
    need(top.bit_length() <= MOST_BITS, f"an elimination takes more than {MOST_BITS} bits")
    for row in rows:
        row[-1] += corner - n * top
    return is_definite(rows, n * top)


def is_definite(rows: Rows, slack: int) -> bool:
    """Whether A + slack I is shown so: A = L L' + E, and E + slack I is diagonally dominant."""
    spare, beside = [0] * len(rows), [0] * len(rows)
    for i, row in enumerate(rows):
        for j in range(i):
            row[j], left = divmod(row[j] - sum(map(mul, row[:j], rows[j])), rows[j][j])
            beside[i], beside[j] = beside[i] + left, beside[j] + left
        rest = row[i] - sum(map(mul, row[:i], row))
        if rest <= 0:
            return False
        row[i], spare[i] = math.isqrt(rest), rest - math.isqrt(rest) ** 2
    return all(off <= slack + on for off, on in zip(beside, spare, strict=True))


class Check:
    """One certificate against one graph: n vertices of degree k on the smaller side, m beyond."""

    def __init__(self, data: dict[str, Any], graph: Graph) -> None:
        self.data, self.graph, self.evidence = data, graph, data["evidence"]
        self.n, self.k, self.m = len(graph.small), len(graph.small[0]), len(graph.large[0])
        self.proved, self.two_sided = data["verdict"] == "PROVED", data["definition"] == "two-sided"
        one, roots = 2**MOST_BITS, [math.isqrt(d - 1 << 2 * MOST_BITS) for d in (self.k, self.m)]
        # A proof with tie vectors shows sigma_2 <= rho, and with that sigma_2 <= rho + eps.
        self.eps = 0 if self.proved and "tie_basis" in self.evidence else data["eps"]
        low, gap = sum(roots) + math.floor(Fraction(self.eps) * one), abs(roots[0] - roots[1])
        self.rho = [Fraction(x, one) ** 2 for x in (low, low + 3)]  # (rho + eps)**2 lies between
        self.least = [Fraction(max(x, 0), one) ** 2 for x in (gap - 1, gap + (gap > 0))]

    def result(self) -> Result:
        """The one path to CONFIRMED."""
        self.check_statement(self.data, self.evidence)
        data, e, within = self.data, self.evidence, self.n <= MOST_VERTICES
        square = self.quotient(e) if within or "vector" in e else Fraction(0)
        need("vector" not in e or sum(e["vector"]) == 0, "the vector does not sum to zero")
        least = self.quotient(e["least"]) if "least" in e else Fraction(self.k * self.m)
        need("least" not in e or e["least"]["side"] == self.graph.short, "least: the larger side")
        levels = self.check_enclosures(square, least)
        missed = square > self.rho[1] or least < self.least[0] or data["components"] > 1
        need(data["verdict"] != "REFUTED" or missed, "nothing shows the bound to be missed")
        if within:
            self.check_ends(levels)
        loose = {*e} - SHOWN if not (self.proved and within) else {"reason"}
        skipped = ("limit", *LIMITS[2:], *sorted(loose | {"reason"}))
        skipped += () if within else ("sigma2", "sigma_min", "c", "c_least")
        if data["verdict"] == "UNDECIDED" or (self.proved and not within):
            return Result("BEYOND", data["verdict"] + ", over 512 vertices" * self.proved, skipped)
        about = f"{data['n1']} x {data['n2']} mask, d1 = {data['d1']}, digest {data['digest']}"
        verdict = f"{data['verdict']}, {data['definition']}, of the {about}"
        return Result("CONFIRMED", verdict, skipped)

    def check_statement(self, d: dict[str, Any], e: dict[str, Any]) -> None:
        """Names, sizes, digest, components: all that needs no proof."""
        for name, value in self.graph.statement().items():
            need(type(d[name]) is type(value) and d[name] == value, f"{name} should be {value}")
        proof = "descartes" if "tie_basis" in e else "blocks" if "r" in e else "cholesky"
        by = dict(REFUTED="rayleigh descartes components", UNDECIDED="lanczos none", PROVED=proof)
        need(d["method"] in by[d["verdict"]].split(), "the method does not fit the verdict")
        need((d["components"] > 1) == (d["method"] == "components"), "components: the method")
        named = ("one-sided", "two-sided", "within", "regular")[: 3 + (self.k == self.m)]
        need(d["definition"] in named, "no such definition, or of unequal degrees")
        fits = d["eps"] >= 0 if d["definition"] == "within" else d["eps"] == 0
        need(type(d["eps"]) is float and fits, "eps does not fit the definition")
        need((d["sigma_min"] is not None) == self.two_sided, "sigma_min goes with two-sided")
        need(self.two_sided or not {*e} & TWO_SIDED, "a field of evidence for two-sided alone")

    def quotient(self, part: dict[str, Any]) -> Fraction:
        """|Mx|**2 / |x|**2 for the vector x of some evidence, which must state it exactly."""
        lines, own = self.graph.sides[part["side"]]
        x, y = part["vector"], image(lines, part["vector"], len(own))
        square = Fraction(sum(map(mul, y, y)), sum(map(mul, x, x)))
        need(part["square"] == [str(z) for z in square.as_integer_ratio()], "another quotient")
        return square

    def check_enclosures(self, square: Fraction, least: Fraction) -> Levels:
        """All of limits and enclosures but the levels still to be shown by elimination."""
        d, n, k, m = self.data, self.n, self.k, self.m
        trace, whole = Fraction(k * (n - m), n - 1), Fraction(k - k * (m - 1) // (n - 1))
        named = [d["limits"][name] for name in LIMITS]
        pairs = [d["sigma2"], d["sigma_min"] if self.two_sided else [0.0, 0.0]]
        for ends in [*pairs, *([x, d["sigma2"][1]] for x in [*named, d["limit"]])]:
            need([type(x) for x in ends] == [float] * 2 and 0 <= ends[0] <= ends[1], "no interval")
        need(len(d["limits"]) == len(LIMITS) and d["limit"] == max(named), "limit is not the best")
        for x, limit in zip(map(Fraction, named[:2]), (trace, whole), strict=True):
            need(x * x <= limit <= (x + x / 2**48) ** 2, f"a limit should be the root of {limit}")
        lo, hi, low, high = (Fraction(x) ** 2 for ends in pairs for x in ends)
        need("vector" not in self.evidence or lo <= max(square, trace, whole), "sigma2: lower end")
        need(not self.two_sided or high >= least, "sigma_min: upper end")
        c, c_least = (self.evidence.get(name, 0.0) for name in ("c", "c_least"))
        need(type(c) is type(c_least) is float and 0 <= c <= self.rho[1], "c is above the bound")
        need(c_least >= self.least[0] or "c_least" not in self.evidence, "c_least is too small")
        known = hi >= min(Fraction(k * m), trace * (n - 1)) or (self.proved and hi >= self.rho[1])
        upper = [hi] * (not known) + [Fraction(c)] * ("c" in self.evidence)
        return {1: upper, -1: [x for x in (low, Fraction(c_least)) if x > 0]}

    def check_ends(self, levels: Levels) -> None:
        """All that takes an elimination: the verdict PROVED, and the levels of the enclosures."""
        e, gram, shift = self.evidence, self.graph.gram(), -(-self.k * self.m // self.n)
        basis, bits, claims = e.get("tie_basis", []), e.get("bits", BITS), Levels()
        if self.proved:
            need(type(bits) is int and BITS <= bits <= MOST_BITS, "bits is out of range")
            found = self.count_ties(basis, bits)
            for name in {*e} - SHOWN:
                need(self.eps == 0 and repr(e[name]) == repr(found[name]), name)
            claims = {1: self.rho[:1], -1: [x for x in self.least[1:] if self.two_sided and x > 0]}
        for sign in (1, -1):
            todo = [(sign * x, basis, bits) for x in claims.get(sign, [])]
            todo = sorted(todo + [(sign * x, [], BITS) for x in levels[sign]], key=lambda t: t[0])
            for level, vectors, digits in todo if basis else todo[:1]:  # the first shows the others
                need(proves(gram, level, sign, shift, vectors, digits), "a level is not shown")

    def count_ties(self, basis: Rows, bits: int) -> dict[str, Any]:
        """What a proof with these eigenvectors must state, once it shows that there are no more."""
        a, four_d, ends = self.k + self.m - 2, 4 * (self.k - 1) * (self.m - 1), [0, 0]
        root, span = math.isqrt(four_d), Rows()
        need(type(basis) is list and len(basis) <= self.n, "the tie basis is too long")
        for b in basis:
            u, whole = self.shifted(b, a), root * root == four_d
            at = [u == [sign * root * x for x in b] for sign in (1, -1)]
            if not whole:
                at = [self.shifted(u, a) == [four_d * x for x in b]] * 2
            need(any(at) and sum(b) == 0, "a tie vector is at neither end")
            ends, span = [ends[0] + at[0], ends[1] + at[1]], [*span, b, *([] if whole else [u])]
        dots = [[sum(map(mul, x, y)) for y in span[: i + 1]] for i, x in enumerate(span)]
        need(not span or proves(dots, Fraction(0), -1, 0, [], bits), "tie vectors are dependent")
        found = {"ties": ends[0], "roots_above": 0, "bits": bits, "tie_basis": basis}
        return {**found, "ties_below": ends[1], "roots_below": 0} if self.k != self.m else found

    def shifted(self, x: list[int], a: int) -> list[int]:
        """(N - a) x."""
        y = image(self.graph.small, image(self.graph.large, x, self.n), len(self.graph.large))
        return [v - a * u for u, v in zip(x, y, strict=True)]


def read_mask(path: str) -> tuple[Rows, int]:
    """Neighbours and n2 from a .json with neighbours, a dense .npy, or a .npz of ours or of one."""
    data = Path(path).read_bytes()
    if path.endswith(".json"):
        found = json.loads(data, object_pairs_hook=once)
        need("neighbors" in found, "this .json holds a recipe alone: save the mask as .npz")
        return found["neighbors"], found["n2"]
    if path.endswith(".npz"):
        archive = zipfile.ZipFile(path)
        arrays = [name.removesuffix(".npy") for name in archive.namelist()]
        need(len({*arrays}) == len(arrays), "two members of this .npz have the name of one array")
        (name,) = {"mask.npy"} & {*archive.namelist()} or archive.namelist()
        data = archive.open(name).read(MOST_BYTES + 1)
    need(data[:6] == b"\x93NUMPY" and len(data) <= MOST_BYTES, "no .npy array, or over 64 MiB")
    start = data.index(b"{", 10)
    end = data.index(b"\n", start, start + 4096) + 1
    head = ast.literal_eval(data[start:end].decode("latin-1"))
    shape, order, turned = head["shape"], head["descr"][0], head["fortran_order"]
    n1, n2 = shape[::-1] if turned else shape
    form = struct.Struct(f"{'>' if order == '>' else '<'}{n2}{CODES[head['descr'][1:]]}")
    need(len(data) - end == n1 * form.size, "the array has another length than its header says")
    lines = [form.unpack_from(data, end + i * form.size) for i in range(n1)]
    need(all({*line} <= {0, 1} for line in lines), "a mask holds only zeros and ones")
    lines = list(zip(*lines, strict=True)) if turned else lines
    return [[j for j, x in enumerate(line) if x] for line in lines], shape[1]


def main(arguments: list[str]) -> int:
    """Check argument 1, a certificate, against argument 2, a mask; the exit code."""
    try:
        text, (neighbors, n2) = Path(arguments[0]).read_bytes(), read_mask(*arguments[1:])
    except Exception as error:  # of whatever kind a damaged file raises
        print(f"usage: recheck.py CERTIFICATE.json MASK; {arguments}: {error}", file=sys.stderr)
        return 2
    result = recheck(text, neighbors, n2)
    rest = f"; not derived again: {', '.join(result.unchecked)}" * (result.outcome != "REJECTED")
    print(f"{result.outcome}: {result.reason}{rest}")
    return {"CONFIRMED": 0, "BEYOND": 3}.get(result.outcome, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
