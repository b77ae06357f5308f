"""Graphs whose spectra are in print, with those spectra.

Spectra of graphs are characteristic polynomials in factors, with multiplicities, as the sources
give them; spectra of designs are the eigenvalues of M'M on the smaller side. Sources: BH = Brouwer
and Haemers, "Spectra of Graphs", 2012; BCN = Brouwer, Cohen and Neumaier, "Distance-Regular
Graphs", 1989; MW = MathWorld and W = Wikipedia, each under the graph's name; Sachs 1967 = the
spectrum of a line graph; Schwenk 1978 = the thirteen connected cubic graphs with integral spectra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import networkx as nx
import numpy as np

from tests.oracles import named_graphs as make
from tests.oracles.named_graphs import Mask, lcf


@dataclass(frozen=True)
class Graph:
    """A regular graph, bipartite or to be read as its double cover, and its spectrum."""

    name: str
    make: Callable[[], nx.Graph]
    factors: dict[str, int]
    source: str


@dataclass(frozen=True)
class Design:
    """An incidence structure and the eigenvalues of its Gram matrix."""

    name: str
    make: Callable[[], Mask]
    squares: dict[int, int]
    source: str


# -- closed forms -------------------------------------------------------------------------------


def level(n: int, j: int) -> int:
    """C(n, j) - C(n, j - 1), the dimension of an eigenspace of the Johnson scheme."""
    return comb(n, j) - (comb(n, j - 1) if j else 0)


def johnson_spectrum(n: int, k: int) -> dict[str, int]:
    """BCN, Johnson graphs: (k - j)(n - k - j) - j with multiplicity C(n, j) - C(n, j - 1)."""
    return {linear((k - j) * (n - k - j) - j): level(n, j) for j in range(min(k, n - k) + 1)}


def kneser_spectrum(n: int, k: int) -> dict[str, int]:
    """Lovasz 1979: (-1)**j C(n - k - j, k - j) with multiplicity C(n, j) - C(n, j - 1)."""
    return {linear((-1) ** j * comb(n - k - j, k - j)): level(n, j) for j in range(k + 1)}


def hamming_spectrum(d: int, q: int) -> dict[str, int]:
    """BCN, Hamming graphs: (q - 1) d - q j with multiplicity C(d, j) (q - 1)**j."""
    return {linear((q - 1) * d - q * j): comb(d, j) * (q - 1) ** j for j in range(d + 1)}


def inclusion_squares(v: int, t: int, k: int) -> dict[int, int]:
    """BCN: C(k - i, t - i) C(v - t - i, k - t) with multiplicity C(v, i) - C(v, i - 1)."""
    return {comb(k - i, t - i) * comb(v - t - i, k - t): level(v, i) for i in range(t + 1)}


def linear(root: int) -> str:
    return f"x-({root})"


def cubic(*others: tuple[str, int]) -> dict[str, int]:
    """The factors of a bipartite cubic graph: x**2 - 9 and others."""
    return {"x**2-9": 1, **dict(others)}


_LJUBLJANA = [
    *(47, -23, -31, 39, 25, -21, -31, -41, 25, 15, 29, -41, -19, 15, -49, 33, 39, -35, -21, 17),
    *(-33, 49, 41, 31, -15, -29, 41, 31, -15, -25, 21, 31, -51, -25, 23, 9, -17, 51, 35, -29, 21),
    *(-51, -39, 33, -9, -51, 51, -47, -33, 19, 51, -21, 29, 21, -31, -39),
]
_HARRIES = [-29, -19, -13, 13, 21, -27, 27, 33, -13, 13, 19, -21, -33, 29]
_TUTTE_12 = [17, 27, -13, -59, -35, 35, -11, 13, -53, 53, -27, 21, 57, 11, -21, -57, 59, -17]

GRAPHS = [
    Graph("moebius_kantor", lcf(16, [5, -5], 8), cubic(("x**2-3", 4), ("x**2-1", 3)), "MW"),
    Graph(
        "nauru",
        lcf(24, [5, -9, 7, -7, 9, -5], 4),
        cubic(("x**2-4", 6), ("x**2-1", 3), ("x", 4)),
        "W",
    ),
    Graph("F26A", lcf(26, [-7, 7], 13), cubic(("x**4-5*x**2+3", 6)), "W"),
    Graph("dyck", lcf(32, [5, -5, 13, -13], 8), cubic(("x**2-5", 6), ("x**2-1", 9)), "W"),
    Graph(
        "gray",
        lcf(54, [-25, 7, -7, 13, -13, 25], 9),
        cubic(("x", 16), ("x**2-6", 6), ("x**2-3", 12)),
        "W",
    ),
    Graph(
        "harries",
        lcf(70, _HARRIES, 5),
        cubic(
            ("x**2-1", 4),
            ("x**2-6", 1),
            ("x**2-2", 1),
            ("x**4-6*x**2+2", 5),
            ("x**4-6*x**2+3", 4),
            ("x**4-6*x**2+6", 5),
        ),
        "W",
    ),
    Graph(
        "foster",
        lcf(90, [17, -9, 37, -37, 9, -17], 15),
        cubic(("x**2-4", 9), ("x**2-1", 18), ("x", 10), ("x**2-6", 12)),
        "W",
    ),
    Graph(
        "ljubljana",
        lcf(112, _LJUBLJANA, 2),
        cubic(("x", 14), ("x**2-x-4", 7), ("x**2+x-4", 7), ("x**2-2", 6), ("x**4-6*x**2+4", 14)),
        "W",
    ),
    Graph(
        "tutte_12_cage",
        lcf(126, _TUTTE_12, 7),
        cubic(("x", 28), ("x**2-6", 21), ("x**2-2", 27)),
        "W",
    ),
    Graph("folkman", lcf(20, [5, -7, -7, 5], 5), {"x**2-16": 1, "x": 10, "x**2-6": 4}, "W"),
    Graph("hoffman", make.hoffman, {"x**2-16": 1, "x**2-4": 4, "x": 6}, "BH"),
    Graph("petersen", nx.petersen_graph, {"x-3": 1, "x-1": 5, "x+2": 4}, "BH"),
    Graph(
        "dodecahedron",
        nx.dodecahedral_graph,
        {"x-3": 1, "x**2-5": 3, "x-1": 5, "x": 4, "x+2": 4},
        "BH",
    ),
    Graph("icosahedron", nx.icosahedral_graph, {"x-5": 1, "x**2-5": 3, "x+1": 5}, "BH"),
    Graph(
        "truncated_tetrahedron",
        nx.truncated_tetrahedron_graph,
        {"x-3": 1, "x-2": 3, "x": 2, "x+1": 3, "x+2": 3},
        "Schwenk 1978",
    ),
    Graph(
        "frucht",
        nx.frucht_graph,
        {
            "x-3": 1,
            "x-2": 1,
            "x": 1,
            "x+1": 1,
            "x+2": 1,
            "x**3+x**2-2*x-1": 1,
            "x**4+x**3-6*x**2-5*x+4": 1,
        },
        "W",
    ),
    Graph(
        "mcgee",
        lcf(24, [12, 7, -7], 8),
        {"x-3": 1, "x": 3, "x-2": 3, "x+1": 2, "x+2": 1, "x**2+x-4": 1, "x**3+x**2-4*x-2": 4},
        "W",
    ),
    Graph("coxeter", make.coxeter, {"x-3": 1, "x-2": 8, "x**2+2*x-1": 6, "x+1": 7}, "BCN"),
    Graph(
        "chvatal",
        nx.chvatal_graph,
        {"x-4": 1, "x-1": 4, "x": 2, "x+1": 1, "x+3": 2, "x**2+x-4": 1},
        "W",
    ),
    Graph(
        "cuboctahedron",
        lambda: nx.line_graph(nx.cubical_graph()),
        {"x-4": 1, "x-2": 3, "x": 3, "x+2": 5},
        "Sachs 1967",
    ),
    Graph("clebsch", lambda: make.folded_cube(5), {"x-5": 1, "x-1": 10, "x+3": 5}, "BH"),
    Graph("folded_6_cube", lambda: make.folded_cube(6), {"x**2-36": 1, "x**2-4": 15}, "BCN"),
    Graph(
        "folded_7_cube",
        lambda: make.folded_cube(7),
        {"x-7": 1, "x-3": 21, "x+1": 35, "x+5": 7},
        "BCN",
    ),
    Graph("halved_5_cube", make.halved_five_cube, {"x-10": 1, "x-2": 5, "x+2": 10}, "BH"),
    Graph("shrikhande", make.shrikhande, {"x-6": 1, "x-2": 6, "x+2": 9}, "BH"),
    Graph(
        "hoffman_singleton",
        nx.hoffman_singleton_graph,
        {"x-7": 1, "x-2": 28, "x+3": 21},
        "BH",
    ),
    Graph("double_six", make.double_six, {"x-10": 1, "x-1": 20, "x+5": 6}, "BH"),
    Graph(
        "schlaefli",
        lambda: nx.complement(make.double_six()),
        {"x-16": 1, "x-4": 6, "x+2": 20},
        "BH",
    ),
    Graph("perkel", make.perkel, {"x-6": 1, "x**2-3*x+1": 18, "x+3": 20}, "BCN"),
    Graph("24_cell", make.twenty_four_cell, {"x-8": 1, "x-4": 4, "x": 9, "x+2": 8, "x+4": 2}, "MW"),
    Graph("gosset", make.gosset, {"x-27": 1, "x-9": 7, "x+1": 27, "x+3": 21}, "BCN"),
    *(
        Graph(
            f"paley_{q}",
            make.paley(q),
            {linear((q - 1) // 2): 1, f"x**2+x-{(q - 1) // 4}": (q - 1) // 2},
            "BH",
        )
        for q in (5, 13, 17, 29)
    ),
    *(
        Graph(f"kneser_{n}_{k}", make.kneser(n, k), kneser_spectrum(n, k), "Lovasz 1979")
        for n, k in ((6, 2), (7, 2), (7, 3), (8, 3))
    ),
    *(
        Graph(f"johnson_{n}_{k}", make.johnson(n, k), johnson_spectrum(n, k), "BCN")
        for n, k in ((5, 2), (6, 2), (6, 3), (8, 2), (7, 3))
    ),
    *(
        Graph(f"hamming_{d}_{q}", make.hamming(d, q), hamming_spectrum(d, q), "BCN")
        for d, q in ((2, 3), (2, 5), (2, 10), (2, 11), (3, 3), (3, 4), (4, 3), (5, 3))
    ),
    *(
        Graph(
            f"cocktail_party_{n}",
            lambda n=n: nx.complete_multipartite_graph(*[2] * n),
            {linear(2 * n - 2): 1, "x": n, "x+2": n - 1},
            "BH",
        )
        for n in (3, 5, 8)
    ),
]

DESIGNS = [
    Design("PG_2_4", make.developed(21, [{0, 1, 4, 14, 16}]), {25: 1, 4: 20}, "BH"),
    *(
        Design(
            f"paley_biplane_{p}",
            make.developed(p, make.quadratic_residues(p)),
            {((p - 1) // 2) ** 2: 1, (p + 1) // 4: p - 1},
            "BH",
        )
        for p in (11, 19, 23)
    ),
    Design(
        "biplane_16",
        lambda: nx.to_numpy_array(make.shrikhande(), dtype=np.int64),
        {36: 1, 4: 15},
        "BH",
    ),
    Design("STS_13", make.developed(13, [{0, 1, 4}, {0, 2, 7}]), {18: 1, 5: 12}, "BH"),
    Design("lines_of_PG_3_2", make.lines_of_pg_3_2, {21: 1, 6: 14}, "BH"),
    *(
        Design(f"AG_2_{q}", make.flats(q), {q * (q + 1): 1, q: q * q - 1}, "BH")
        for q in (2, 3, 5, 7)
    ),
    Design("GQ_2_4", make.tritangents, {15: 1, 6: 20, 0: 6}, "BH"),
    *(
        Design(
            f"subsets_{v}_{t}_{k}",
            make.inclusion(v, t, k),
            inclusion_squares(v, t, k),
            "BCN",
        )
        for v, t, k in (
            (6, 2, 3),
            (7, 2, 3),
            (6, 1, 4),
            (7, 3, 4),
            (8, 2, 4),
            (9, 2, 3),
            (9, 4, 5),
            (12, 2, 3),
        )
    ),
    Design("subdivided_petersen", make.edges_of(nx.petersen_graph), {6: 1, 4: 5, 1: 4}, "BH"),
    Design("subdivided_shrikhande", make.edges_of(make.shrikhande), {12: 1, 8: 6, 4: 9}, "BH"),
    Design(
        "subdivided_schlaefli",
        make.edges_of(lambda: nx.complement(make.double_six())),
        {32: 1, 20: 6, 14: 20},
        "BH",
    ),
    Design(
        "subdivided_H_2_11",
        make.edges_of(make.hamming(2, 11)),
        {40: 1, 29: 20, 18: 100},
        "BH",
    ),
]
