# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages that administrators can meet, read from the source that says them.

A message is what is written there with ``…`` for everything that is put in at run time, so
``f"the bridge {name} does not exist"`` is "the bridge … does not exist".  What consists of nothing
else but what is put in (an error that is passed on) is no message of its own.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

#: What stands for a value that isn't known before the program runs.
HOLE = "…"

#: The class of all errors that carry a remedy.
BASE_OF_ERRORS = "VifError"

# The methods of a logger that say what an administrator is to read, and its names.
_LOG_METHODS = ("warning", "error", "critical", "exception")
_LOGGERS = ("log", "_log")

# Which argument of a function is a message: those of inspection.finding, that of the hooks, what a
# setupNetworks request would do (protection.changes), what a protected device does
# (protection.foundation), and a reply that says no (vif_driver.events).
_ARGUMENTS = {
    "bad": 1,
    "warning": 1,
    "unknown": 1,
    "fail": 0,
    "Change": 2,
    "Purpose": 1,
    "_end": 1,
    "failure": 1,
    "_error": 1,
}

# What such an argument is called where it is given by its name.
_KEYWORDS = ("what", "detail", "text", "message")

# Functions whose results are messages, or parts of them: what a protected device is
# (protection.foundation), why a port without a device stays (reconciliation.leftovers), what was
# not put back, and what else is to be said when a host was configured (configuration).
_TELLING = (
    "own",
    "why_port_stays",
    "take_back",
    "leave",
    "_make_ipsec_run",
    "_hand_over",
    "_dead_ends",
    "_down",
    "_other_bridge",
    "_readable",
)

# Lists of such.
_NOTES = ("notes", "told")

# Functions that only shape a text.
_SHAPING = ("one_line", "str")

# What has fewer than two words, like "VM …: …", passes on what another place says.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]+")

# What the old way of formatting puts something in for.
_CONVERSION = re.compile(r"%[-+ #0]*[0-9.]*[a-zA-Z]")


@dataclasses.dataclass(frozen=True, order=True)
class Message:
    """Something that an administrator can read.

    Attributes:
        where: the file that says it.
        line: its number there.
        text: what it says, with ``…`` for what is put in.
    """

    where: str
    line: int
    text: str


def collect(files: Iterable[Path], root: Path) -> list[Message]:
    """Read the messages from Python files.

    Args:
        files: these.
        root: what their names are told relative to.
    """
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_bytes()) for path in files}
    errors = _errors(trees.values())
    found = (
        Message(name, line, text)
        for name, tree in trees.items()
        for line, text in _Reader(tree, errors).messages()
        if len(_WORD.findall(text)) > 1
    )
    return sorted(set(found))


def _errors(trees: Iterable[ast.Module]) -> set[str]:
    """Give the names of the classes of errors that carry a remedy."""
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known = {BASE_OF_ERRORS}
    while more := {name for name, above in bases.items() if known & set(above)} - known:
        known |= more
    return known


class _Reader(ast.NodeVisitor):
    """Finds what one file says.

    Args:
        tree: the file.
        errors: the names of classes of errors.
    """

    def __init__(self, tree: ast.Module, errors: set[str]) -> None:
        self._errors = errors
        self._tree = tree
        # What the names of the module, and of the functions around a place, may stand for.
        self._scopes: list[Mapping[str, Sequence[ast.expr]]] = [_assigned(tree)]
        self._within_names: list[str] = []
        self._found: list[tuple[int, str]] = []

    def messages(self) -> Iterator[tuple[int, str]]:
        self.visit(self._tree)
        return iter(self._found)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scopes.append(_assigned(node))
        for inner in _within(node) if node.name in _TELLING else ():
            if isinstance(inner, (ast.Return, ast.Yield)) and inner.value is not None:
                self._say(inner.lineno, self._texts(inner.value))
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        place = _place(node, self._errors)
        if place is not None and len(node.args) > place:
            self._say(node.lineno, self._filled(node.args[place], node.args[place + 1 :]))
        elif place is not None:
            for keyword in node.keywords:
                if keyword.arg in _KEYWORDS:
                    self._say(node.lineno, self._texts(keyword.value))

    def _say(self, line: int, texts: Iterable[str]) -> None:
        shown = (re.sub(f"{HOLE}+", HOLE, " ".join(text.split())) for text in texts)
        self._found += [(line, text) for text in shown]

    def _filled(self, node: ast.expr, values: Sequence[ast.expr]) -> list[str]:
        """Give what a text of the old way of formatting may say."""
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            return self._texts(node)
        told = iter([self._texts(value) or [HOLE] for value in values])
        parts: list[list[str]] = [[node.value]]
        if _CONVERSION.search(node.value):
            fixed = _CONVERSION.split(node.value)
            parts = [[fixed[0]]]
            for text in fixed[1:]:
                parts += [next(told, [HOLE]), [text]]
        return ["".join(one) for one in itertools.product(*parts)]

    def _texts(self, node: ast.expr) -> list[str]:
        """Give what an expression may say; nothing where it only passes something on."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            parts = (self._part(part) for part in node.values)
            return ["".join(one) for one in itertools.product(*parts)]
        if isinstance(node, ast.List):
            return [text for element in node.elts for text in self._texts(element)]
        if isinstance(node, ast.IfExp):
            return self._texts(node.body) + self._texts(node.orelse)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            right = node.right
            return self._filled(node.left, right.elts if isinstance(right, ast.Tuple) else [right])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = [self._texts(side) for side in (node.left, node.right)]
            return ["".join(pair) for pair in itertools.product(*(one or [HOLE] for one in sides))]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return self._texts(node.func.value) if node.func.attr == "encode" else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._texts(node.args[0]) if node.func.id in _SHAPING and node.args else []
        if isinstance(node, ast.Name):
            return self._named(node.id)
        return []

    def _named(self, name: str) -> list[str]:
        """Give what a name may say; nothing for one that is put together from itself."""
        if name in self._within_names:
            return []
        self._within_names.append(name)
        texts = [text for value in self._values(name) for text in self._texts(value)]
        self._within_names.pop()
        return texts

    def _part(self, part: ast.expr) -> list[str]:
        """Give what a part of an f-string may be: its text, what a name stands for, or a hole."""
        if isinstance(part, ast.Constant):
            return [str(part.value)]
        inner = part.value if isinstance(part, ast.FormattedValue) else part
        if not isinstance(inner, ast.Name):
            return [HOLE]
        values = self._values(inner.id)
        if not all(isinstance(value, (ast.Constant, ast.JoinedStr)) for value in values):
            return [HOLE]
        return self._named(inner.id) or [HOLE]

    def _values(self, name: str) -> Sequence[ast.expr]:
        return next((scope[name] for scope in reversed(self._scopes) if name in scope), ())


def _place(node: ast.Call, errors: set[str]) -> int | None:
    """Tell which argument is a message, if the call says something."""
    if isinstance(node.func, ast.Attribute):
        whose, name = node.func.value, node.func.attr
        owner = whose.id if isinstance(whose, ast.Name) else ""
        if owner == "self":
            return _ARGUMENTS.get(name)
        if name in errors:
            return 0
        if owner in _LOGGERS:
            return 0 if name in _LOG_METHODS else 1 if name == "log" else None
        if owner in _NOTES:
            return 0 if name == "append" else None
        is_said = (owner, name) in (("parser", "error"), ("argparse", "ArgumentTypeError"))
        return 0 if is_said else 1 if (owner, name) == ("posix", "write") else None
    if not isinstance(node.func, ast.Name):
        return None
    if node.func.id == "print":
        return 0 if any(keyword.arg == "file" for keyword in node.keywords) else None
    return 0 if node.func.id in errors else _ARGUMENTS.get(node.func.id)


def _assigned(
    scope: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Mapping[str, Sequence[ast.expr]]:
    """Give what is assigned to each name of a scope, in the scope itself."""
    found: dict[str, list[ast.expr]] = {}
    for node in _within(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs: Iterable[tuple[ast.expr, ast.expr]] = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts)
                for left, right in pairs:
                    if isinstance(left, ast.Name):
                        found.setdefault(left.id, []).append(right)
    return found


def _within(scope: ast.AST) -> Iterator[ast.AST]:
    # Without recursion, which takes thrice as long.
    waiting = [*ast.iter_child_nodes(scope)][::-1]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            waiting += [*ast.iter_child_nodes(node)][::-1]
