"""Signs that a mask was tiled from a smaller block, or cropped from a larger one.

Generators that have no graph of the size asked for repeat a block, or cut one down, until it fits.
What that leaves behind is stated here as facts about the mask, each by its definition:

* **repeats**: the smallest p with row i + p equal to row i wherever both exist, if the first p rows
  make two whole copies, or if an eighth of all rows, two at least, repeat earlier ones this way. If
  p divides the number of rows, the mask is `np.tile` of its first p rows; if not, the last copy is
  cut.
* **dead end**: the last rows are all zero, and do not repeat as above. The other signs are then
  looked for before them.
* **drop**: at least half of the rows come first and have one degree, and all after them have lower
  degrees.

The same of the columns. A mask that shows them may still be Ramanujan: the certificate says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from expandermask.inspection import _kernels as kernels

Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class Symptom:
    """One sign of tiling or cropping."""

    kind: Literal["repeats", "dead end", "drop"]
    axis: Axis
    numbers: dict[str, int]
    """What the sentence says: ``period``, ``copies`` and ``rest`` (rows of a copy that was cut, 0
    if none was); or ``start``, the first of the dead; or ``start``, ``before``, ``least`` and
    ``most``, the degrees before it and the range of those after."""

    def __str__(self) -> str:
        axis, at = self.axis, self.numbers
        if self.kind == "dead end":
            return f"the {axis} from {at['start']} to the last are dead"
        if self.kind == "drop":
            after = "to".join(f" {d} " for d in sorted({at["least"], at["most"]})).strip()
            return (
                f"the {axis} from {at['start']} on have degrees {after}, all before them "
                f"{at['before']}"
            )
        cut = f" and {at['rest']} of the {at['period']} {axis} of another" if at["rest"] else ""
        copies = f"{at['copies']} cop{'y' if at['copies'] == 1 else 'ies'}"
        return f"the {axis} repeat with period {at['period']}: {copies}{cut}"


def find_symptoms(
    axis: Axis, degrees: NDArray[np.int64], labels: NDArray[np.int64]
) -> list[Symptom]:
    """The signs along one axis, of a mask with at least one entry.

    Parameters
    ----------
    axis : {"rows", "columns"}
        What the symptoms call them.
    degrees : int64 array, shape (n,)
        The degree of each row.
    labels : int64 array, shape (n,)
        Equal where the rows are equal.

    Notes
    -----
    O(n).

    Examples
    --------
    >>> import numpy as np
    >>> degrees, labels = np.array([2, 2, 2, 2, 2, 0]), np.array([0, 1, 0, 1, 0, 2])
    >>> for symptom in find_symptoms("rows", degrees, labels):
    ...     print(symptom)
    the rows from 5 to the last are dead
    the rows repeat with period 2: 2 copies and 1 of the 2 rows of another
    """
    if repeats := _repeats(labels):
        return [Symptom("repeats", axis, repeats)]
    length = int(np.flatnonzero(degrees)[-1]) + 1
    found = []
    if length < len(degrees):
        found.append(Symptom("dead end", axis, {"start": length}))
        if repeats := _repeats(labels[:length]):
            found.append(Symptom("repeats", axis, repeats))
    if drop := _drop(degrees[:length]):
        found.append(Symptom("drop", axis, drop))
    return found


def _repeats(labels: NDArray[np.int64]) -> dict[str, int]:
    """The period of labels that repeat with one; empty if they do not."""
    period = int(kernels.smallest_period(labels))
    repeated = len(labels) - period
    if repeated < period and repeated < max(2, len(labels) / 8):
        return {}
    copies, rest = divmod(len(labels), period)
    return {"period": period, "copies": copies, "rest": rest}


def _drop(degrees: NDArray[np.int64]) -> dict[str, int]:
    """Where and how far the degrees drop towards the end; empty if they do not."""
    before = int(degrees[0])
    differing = np.flatnonzero(degrees != before)
    if differing.size == 0 or 2 * differing[0] < len(degrees):
        return {}
    after = degrees[differing[0] :]
    if after.max() >= before:
        return {}
    return {
        "start": int(differing[0]),
        "before": before,
        "least": int(after.min()),
        "most": int(after.max()),
    }
