"""The committed table of what the sweep found, one row a model type.

``python -m tests.architectures.table`` makes every row anew. With names of types it makes their
rows only, also where there were none.
"""

from __future__ import annotations

import copy
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from expandermask.errors import ExpanderMaskError
from tests.architectures.cases import REASONS, SIZES
from tests.architectures.inputs import inputs
from tests.architectures.journey import Found, travel
from tests.architectures.tiny import build

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"
HEADER = "| model_type | class | adapted | passed over | without gradient | outcome |"
Cells = tuple[str, ...]


def cells(model_type: str) -> Cells:
    """What a row says of one type, found by going through everything with it.

    Any error but a refusal of this library is a failure of the sweep.
    """
    model = build(model_type, SIZES.get(model_type, {}))
    given = inputs(model)
    try:
        found = travel(lambda: copy.deepcopy(model), given)
    except ExpanderMaskError as error:
        name = type(model).__name__
        return (f"`{model_type}`", name, "none", "", "", f"refused: {_short(str(error))}")
    return row(model_type, found)


def row(model_type: str, found: Found) -> Cells:
    """The row of a type that was adapted and trained."""
    return (
        f"`{model_type}`",
        found.model_class,
        f"{sum(found.adapted.values())}: {_leaves(found.adapted)}",
        _by_reason(found.passed),
        _without_gradient(model_type, found),
        f"trained; export refused: {_short(found.unexported)}" if found.unexported else "trained",
    )


def _without_gradient(model_type: str, found: Found) -> str:
    if not found.still:
        return ""
    return f"{_under_common(found.still)} ({REASONS.get(model_type, 'no reason is known')})"


def _by_reason(passed: Mapping[str, str]) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in passed.items():
        groups[_short(reason)].append(name)
    return "; ".join(f"{_leaves(names)} ({reason})" for reason, names in groups.items())


def _leaves(names: Iterable[str]) -> str:
    """The last parts of names, each once; two where the last is a number."""
    ends = [re.sub(r"^.*?([^.]+(\.\*)*)$", r"\1", name) for name in names]
    return ", ".join(dict.fromkeys(_escaped(end) for end in ends))


def _under_common(names: Iterable[str]) -> str:
    """The last parts of names, after what the names begin with in common."""
    split = [name.split(".") for name in names]
    shared = [part[0] for part in zip(*split, strict=False) if len(set(part)) == 1]
    if len(split) == 1 or not shared:
        return _escaped(".".join(shared)) or _leaves(names)
    return f"{_escaped('.'.join(shared))}: {_leaves(names)}"


def _escaped(name: str) -> str:
    return name.replace("*", r"\*")


def _short(text: str) -> str:
    """The first clause of a reason or a message."""
    first = re.split(r"[,;:] (?!no mask)|\. ", text, maxsplit=1)[0]
    return re.sub(r"\.(\d+)(?=[.'])", ".N", first).replace("|", r"\|")


def committed() -> dict[str, Cells]:
    """The rows of the table as they are in the repository."""
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    split = [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]) for row in rows]
    return {row[0].strip("`"): row for row in split}


def write(rows: Mapping[str, Cells]) -> None:
    """Write the table, with what is said above it left as it is."""
    head = TABLE.read_text(encoding="utf-8").split(HEADER)[0]
    lines = [HEADER, "|" + "---|" * len(next(iter(rows.values())))]
    lines += ["| " + " | ".join(rows[name]) + " |" for name in sorted(rows)]
    TABLE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def main(names: list[str]) -> None:
    """Make the rows of these types, or all that there are."""
    rows = committed()
    failed = []
    for name in names or list(rows):
        try:
            rows[name] = cells(name)
        except Exception as error:  # the others are looked at all the same
            failed.append(f"{name}: {type(error).__name__}: {error}")
            rows.pop(name, None)
    write(rows)
    print(*failed, sep="\n")
    trained = [row for row in rows.values() if row[-1].startswith("trained")]
    print(f"{len(rows)} types, {len(trained)} trained")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
