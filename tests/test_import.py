"""Importing the library is light, and its folders import one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import expandermask

PACKAGE = Path(expandermask.__file__).parent
ORDER = [
    "graphs",
    "certificates",
    "expansion",
    "masks",
    "inspection",
    "adapters",
    "peft",
    "importance",
    "allocation",
]
HEAVY = ["torch", "transformers", "peft", "safetensors", "matplotlib", "igraph", "pandas"]


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy():
    assert run(f"import expandermask, sys; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_making_and_certifying_a_mask_loads_no_torch():
    code = (
        "import expandermask as xm, sys\n"
        "xm.certify(xm.generate_ramanujan_mask(768, 8, 2, rng=0))\n"
        "xm.MaskPlan.for_shapes({'m': (24, 24)}, r=12, left_degree=3, rng=0)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_public_names_exist():
    for name in set(expandermask.__all__) - {"adapters", "plots"}:
        assert hasattr(expandermask, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        expandermask.nonsense  # noqa: B018  # the look-up itself is the test


FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, top_level: bool) -> set[str]:
    """Modules a file imports, the ones under TYPE_CHECKING apart; at its top level, or anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        or (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def folder_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "expandermask" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = path.relative_to(PACKAGE).parts[0]
    modules = imports(path, top_level=True)
    if here in ORDER:
        later = set(ORDER[ORDER.index(here) + 1 :]) | {"plots", "cli", "demo"}
        assert not {folder_of(m) for m in modules} & later
    if here in (*ORDER[: ORDER.index("adapters")], "errors.py", "files.py", "__init__.py"):
        assert not {m for m in modules if m.split(".")[0] in HEAVY}
    if here in ("errors.py", "files.py", "tables.py", "threads.py"):
        assert {folder_of(m) for m in modules} <= {None, "errors"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_what_proves_its_own_graphs_reaches_ahead_inside_functions(path):
    """`certify` is called by the catalog, and where a construction's promise is a proved graph."""
    here = path.relative_to(PACKAGE).parts[0]
    if here not in ORDER or path.name in ("catalog.py", "coverings.py", "gribinski_marcus.py"):
        return
    later = set(ORDER[ORDER.index(here) + 1 :]) | {"plots", "cli", "demo"}
    assert not {folder_of(m) for m in imports(path, top_level=False)} & later


def test_no_file_unpickles_or_evaluates():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert not names & {"eval", "exec", "pickle"}, path
