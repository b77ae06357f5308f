"""Both searches against trying every number, for metrics that fall and that do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from expandermask.importance.search import MAX_EVALUATIONS, bisection, one_by_one


def counted(passing: list[bool]):
    asked: list[int] = []

    def passes(m: int) -> bool:
        assert 1 <= m < len(passing)
        asked.append(m)
        return passing[m]

    return passes, asked


@given(st.lists(st.booleans(), max_size=70))
def test_any_metric(rest: list[bool]) -> None:
    passing = [True, *rest]
    n = len(rest)
    passes, asked = counted(passing)
    first = one_by_one(n, passes)
    assert all(passing[: first + 1])
    assert first == n or not passing[first + 1]
    assert asked == list(range(1, min(first + 2, n + 1)))
    passes, asked = counted(passing)
    found = bisection(n, passes)
    assert passing[found]
    assert found == n or not passing[found + 1]
    assert found >= first
    assert len(asked) <= n.bit_length()  # ceil(log2(n + 1))
    assert len(set(asked)) == len(asked)


@given(st.integers(0, 4095), st.data())
def test_a_falling_metric_gives_the_same_by_both(n: int, data: st.DataObject) -> None:
    edge = data.draw(st.integers(0, n))
    asked = []

    def passes(m: int) -> bool:
        asked.append(m)
        return m <= edge

    assert bisection(n, passes) == edge == one_by_one(n, lambda m: m <= edge)
    assert len(asked) <= MAX_EVALUATIONS


@given(st.integers(4096, 10**6), st.data())
def test_above_4095_rows_it_stops_on_the_safe_side(n: int, data: st.DataObject) -> None:
    edge = data.draw(st.integers(0, n))
    asked = []

    def passes(m: int) -> bool:
        asked.append(m)
        return m <= edge

    found = bisection(n, passes)
    assert found <= edge <= found + n / 4096 + 1
    assert len(asked) <= MAX_EVALUATIONS == 12
