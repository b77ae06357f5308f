"""Weights that a module around a layer reads without calling the layer, told from the source.

Mamba multiplies by ``self.dt_proj.weight``, and torch's MultiheadAttention hands
``self.out_proj.weight`` to one fused function. An adapter beside such a layer computes nothing and
gets no gradient. The ``forward`` of every class around a layer is parsed, with the methods that it
names and those that classes further out call, and what it reads is collected. Code without source,
and functions that get the layer as an argument, say nothing here; a check in the first training
step has to notice those.
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from expandermask.masks.places import bare_module, module_at

if TYPE_CHECKING:
    from torch import nn

Path = tuple[str, ...]
"""Attributes from a module to what is inside it; ``*`` stands for every child."""
Guard = tuple[ast.expr, bool]
"""A test in the code, and what it must be for a line to run."""

_ABOUT: tuple[str, ...] = (
    "device",
    "dim",
    "dtype",
    "element_size",
    "grad",
    "is_cuda",
    "is_floating_point",
)
_ABOUT += ("is_meta", "layout", "nbytes", "ndim", "numel", "requires_grad", "shape", "size")
"""What can be asked of a weight without computing with it."""
_INSPECTING = ("hasattr", "id", "isinstance", "type")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


@dataclass(frozen=True)
class Read:
    """One place in a class's code where the weight of a module inside is read."""

    path: Path
    guards: tuple[Guard, ...]
    defaults: dict[str, Any]
    """Optional arguments that the code does not assign, by their default values."""


def why_bypassed(model: nn.Module, place: str) -> str | None:
    """Which class around the module in a place can compute without calling it; None if none."""
    target = bare_module(module_at(model, place))
    parts = place.split(".")
    asked: frozenset[str] = frozenset()
    for depth in range(len(parts)):
        module = bare_module(module_at(model, ".".join(parts[:depth])))
        kind: type = type(module)
        reads, inside = weight_reads(kind, frozenset(name for name in asked if hasattr(kind, name)))
        asked |= inside
        for read in reads:
            if _reaches(module, read.path, target) and _can_run(read, module):
                return (
                    f"{type(module).__name__} can compute with its weight without calling it, so "
                    "an adapter there would be ignored"
                )
    return None


@cache
def weight_reads(kind: type, asked: frozenset[str]) -> tuple[tuple[Read, ...], frozenset[str]]:
    """Every weight of a module inside that the ``forward`` of a class can read.

    So can the methods in ``asked``, which classes around it call. Returned as well are the methods
    that the class calls of modules inside.
    """
    reads: list[Read] = []
    inside: set[str] = set()
    todo = [("forward", 0), ("__call__", 0), *((name, 0) for name in sorted(asked))]
    done = set()
    while todo:
        name, start = todo.pop()
        found = _method(kind, name, start)
        if found is None or found in done:
            continue
        done.add(found)
        function, position = found
        tree = _parsed(function)
        if tree is None or not tree.args.args:
            continue
        is_entry = name in ("forward", "__call__")
        reader = _Reader(tree, _defaults(tree) if is_entry else {})
        todo += [(called, 0) for called in reader.named]
        todo += [(called, position + 1) for called in reader.inherited]
        reads += reader.reads
        inside |= reader.asked
    return tuple(reads), frozenset(inside)


def _method(kind: type, name: str, start: int) -> tuple[Callable[..., Any], int] | None:
    """A method or property that torch's Module does not have, and its class's position."""
    for position, owner in enumerate(kind.__mro__[start:], start):
        if owner.__module__ == "torch.nn.modules.module":
            return None
        if name in vars(owner):
            member = vars(owner)[name]
            function = member.fget if isinstance(member, property) else member
            return (function, position) if inspect.isfunction(function) else None
    return None


@cache
def _parsed(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """The definition of a function; None for one whose source cannot be had."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError):
        return None
    return body[0] if body and isinstance(body[0], ast.FunctionDef) else None


def _defaults(tree: ast.FunctionDef) -> dict[str, Any]:
    """Constant defaults of the arguments that the function does not assign itself."""
    stored = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    arguments = tree.args
    optional = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    pairs = [
        *zip(optional, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {
        argument.arg: default.value
        for argument, default in pairs
        if isinstance(default, ast.Constant) and argument.arg not in stored
    }


class _Reader(ast.NodeVisitor):
    """Collects what one method reads, following local names of parts of ``self``."""

    def __init__(self, tree: ast.FunctionDef, defaults: dict[str, Any]) -> None:
        self.reads: list[Read] = []
        self.named: set[str] = set()
        self.inherited: set[str] = set()
        self.asked: set[str] = set()
        self._defaults = defaults
        self._guards: list[Guard] = []
        self._names: dict[str, Path] = {tree.args.args[0].arg: ()}
        for statement in tree.body:
            self.visit(statement)

    def _path(self, node: ast.AST) -> Path | None:
        """Where an expression leads from ``self``; None if it is not such a path."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            start = self._path(node.value)
            return None if start is None else (*start, node.attr)
        if isinstance(node, ast.Subscript):
            start = self._path(node.value)
            if start is None or isinstance(node.slice, ast.Slice):
                return start
            return (*start, _index(node.slice))
        if isinstance(node, ast.Call) and _name(node.func) == "getattr" and len(node.args) > 1:
            start = self._path(node.args[0])
            return None if start is None else (*start, _index(node.args[1]))
        return None

    def _visit_path(self, node: ast.expr) -> None:
        path = self._path(node)
        if path is None:
            self.generic_visit(node)
        elif "weight" in path[1:]:
            at = path.index("weight", 1)
            asked = path[at + 1] if len(path) > at + 1 else ""
            if asked not in _ABOUT and not asked.startswith("_"):
                self.reads.append(Read(path[:at], tuple(self._guards), self._defaults))
        elif path:
            self.named.add(path[0])

    visit_Name = _visit_path
    visit_Attribute = _visit_path
    visit_Subscript = _visit_path

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        if _name(called) in _INSPECTING:
            return
        if isinstance(called, ast.Attribute) and _is_super(called.value):
            self.inherited.add(called.attr)
        path = self._path(called) or ()
        if len(path) > 1:
            self.asked.add(path[-1])
        self._visit_path(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if not all(isinstance(sign, ast.Is | ast.IsNot) for sign in node.ops):
            self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        self.visit(node.test)
        for branch, is_taken in ((node.body, True), (node.orelse, False)):
            self._guards.append((node.test, is_taken))
            for part in branch if isinstance(branch, list) else [branch]:
                self.visit(part)
            self._guards.pop()

    visit_IfExp = visit_If

    def visit_Assign(self, node: ast.Assign) -> None:
        path = self._path(node.value)
        is_one_name = len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        if path is None or not is_one_name:
            self.visit(node.value)
        for target in node.targets:
            self._let(target, path)

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        for loop in node.generators:
            self._loop(loop.target, loop.iter)
            for test in loop.ifs:
                self.visit(test)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for result in results:
            self.visit(result)

    visit_ListComp = _comprehension
    visit_SetComp = _comprehension
    visit_GeneratorExp = _comprehension
    visit_DictComp = _comprehension

    def _loop(self, target: ast.expr, items: ast.expr) -> None:
        """Give a loop's variable the path of any child of what is looped over."""
        if isinstance(items, ast.Call) and _name(items.func) == "enumerate" and items.args:
            items = items.args[0]
            target = target.elts[-1] if isinstance(target, ast.Tuple) else target
        path = self._path(items)
        if path is None:
            self.visit(items)
        self._let(target, None if path is None else (*path, "*"))

    def _let(self, target: ast.expr, path: Path | None) -> None:
        """What a local name stands for from here on."""
        if isinstance(target, ast.Name):
            if path is None:
                self._names.pop(target.id, None)
            else:
                self._names[target.id] = path


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) == "super"


def _index(node: ast.expr) -> str:
    """The one child that is meant, or ``*``."""
    try:
        return str(ast.literal_eval(node))
    except ValueError:
        return "*"


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _reaches(module: nn.Module, path: Path, target: nn.Module) -> bool:
    """Whether a path from ``module`` leads to ``target``."""
    module = bare_module(module)
    if not path:
        return module is target
    children = list(module._modules.values())
    if path[0] != "*":
        is_last = path[0] == "-1" and children
        children = [children[-1] if is_last else module._modules.get(path[0])]
    return any(_reaches(child, path[1:], target) for child in children if child is not None)


def _can_run(read: Read, module: nn.Module) -> bool:
    """Whether no test around the read is known to turn out the other way in this module."""
    return all(_decided(test, read, module) in (None, wanted) for test, wanted in read.guards)


def _decided(test: ast.expr, read: Read, module: nn.Module) -> bool | None:
    """What a test will be, from the module's settings; None if that cannot be told."""
    if isinstance(test, ast.BoolOp):
        parts = [_decided(part, read, module) for part in test.values]
        stop = isinstance(test.op, ast.Or)
        if stop in parts:
            return stop
        return None if None in parts else not stop
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _decided(test.operand, read, module)
        return None if inner is None else not inner
    try:
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            left = _value(test.left, read, module)
            right = _value(test.comparators[0], read, module)
            return bool(_COMPARISONS[type(test.ops[0])](left, right))
        return bool(_value(test, read, module))
    except (LookupError, AttributeError, RuntimeError, TypeError, ValueError):
        return None


def _value(node: ast.expr, read: Read, module: nn.Module) -> Any:
    """The value of a constant, an optional argument left out, or a setting of the module."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return module if node.id == "self" else read.defaults[node.id]
    if isinstance(node, ast.Attribute) and node.attr != "training":
        return getattr(_value(node.value, read, module), node.attr)
    raise LookupError(ast.dump(node))
