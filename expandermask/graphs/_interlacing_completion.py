"""Finishing a matching without repeating an edge: a completion kept up to date as rows are fixed.

The edges a graph of equal degrees lacks have equal degrees too, so a matching among them exists
(Koenig, 1916); augmenting paths find it, and mend it after each choice.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray


class Completion:
    """A matching of every open row to a column it is not joined to yet, ``k`` rows per column.

    Parameters
    ----------
    multiplicity : integer array, shape (n1, n2)
        How often each edge is there already.
    k : int
        Rows that each column takes.
    """

    def __init__(self, multiplicity: NDArray[np.int64], k: int) -> None:
        n1, n2 = multiplicity.shape
        self._absent = multiplicity == 0
        self._column = np.full(n1, -1)
        self._slack = np.full(n2, k)
        for row in range(n1):
            if not self._place(row, np.flatnonzero(self._absent[row]).tolist()):
                raise ArithmeticError("the lacking edges do not have equal degrees")

    def fix(self, row: int, column: int) -> bool:
        """Match ``row`` to ``column`` for good if the other open rows can still be finished."""
        if not self._absent[row, column]:
            return False
        old = self._column[row]
        if old != column:
            self._column[row] = -1
            self._slack[old] += 1
            if not self._place(row, [column]):
                self._column[row] = old
                self._slack[old] -= 1
                return False
        self._column[row] = -1
        return True

    def _place(self, row: int, columns: list[int]) -> bool:
        """Give ``row`` one of ``columns``, moving other open rows along a shortest path."""
        came: dict[int, tuple[int, int] | None] = dict.fromkeys(columns)
        queue = deque(columns)
        while queue:
            column = queue.popleft()
            if self._slack[column] > 0:
                self._slack[column] -= 1
                while (link := came[column]) is not None:
                    mover, left = link
                    self._column[mover] = column
                    column = left
                self._column[row] = column
                return True
            for mover in np.flatnonzero(self._column == column).tolist():
                for other in np.flatnonzero(self._absent[mover]).tolist():
                    if other not in came:
                        came[other] = (mover, column)
                        queue.append(other)
                if len(came) == self._slack.size:
                    break
        return False
