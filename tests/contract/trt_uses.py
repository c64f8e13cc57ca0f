"""Which of TensorRT's names a source uses, and in which releases each use can run: read from its syntax tree.

A value's type is followed from `import_flavour(...)` on: through calls and properties by the signatures in the
table, through the source's own functions and dataclasses by what is handed to them. With it goes the set of
releases that can reach a line: `hasattr(x, "name")`, `getattr(x, "name", None)` that is not None and a comparison
with a flavour's name each narrow it. A use is a fault where one of those releases lacks the name, or has it with
another signature.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_table import Table
from trt_values import NOTHING, ROOT, Facts, Kinds, Scope, Use, Values, arguments_of, items

__all__ = ["Checked", "check_folder", "check_sources"]

_PASSES = 12


@dataclass(frozen=True)
class Checked:
    """Each use that was found, and which parameters `x: Any` of the source have no known type."""

    uses: frozenset[Use]
    untyped: frozenset[str]

    @property
    def faults(self) -> list[Use]:
        """The uses that a release refuses."""
        return sorted(use for use in self.uses if use.fault)


def check_sources(sources: Iterable[tuple[str, str]], table: Table) -> Checked:
    """Check `(name, text)` of each source; sources may call one another by name."""
    texts = dict(sources)
    trees = [(name, ast.parse(text)) for name, text in texts.items()]
    facts = Facts()
    for _, tree in trees:
        _collect(tree, facts)
    uses: set[Use] = set()
    for _ in range(_PASSES):
        before = facts.size()
        uses.clear()
        for name, tree in trees:
            _Walker(name, table, facts, uses).module(tree)
        if facts.size() == before:
            break
    else:
        raise AssertionError(f"the types did not settle in {_PASSES} passes")
    untyped = {
        f"{function.name}({argument.arg})"
        for name, tree in trees
        # What imports no TensorRT may have `Any` of its own: a row of JSON.
        if ROOT in texts[name]
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for argument in arguments_of(function)
        if _is_any(argument.annotation) and not facts.parameters[f"{function.name}.{argument.arg}"]
    }
    return Checked(frozenset(uses), frozenset(untyped))


def check_folder(root: Path, table: Table) -> Checked:
    """Check each file below a folder that names the module through which TensorRT is imported, or what it gives."""
    texts = ((str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py")))
    return check_sources([(name, text) for name, text in texts if "tensorrt_api" in text or ROOT in text], table)


def _collect(tree: ast.Module, facts: Facts) -> None:
    heads = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            facts.functions.setdefault(node.name, node)
        elif isinstance(node, ast.ClassDef):
            facts.classes[node.name] = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            heads.add(node.func)
            facts.called.add(node.func.id)
    # A function that is handed on can be reached from anywhere.
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in heads:
            facts.reached[node.id].add("")


def _is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


class _Walker(Values):
    """Walks one file, statement by statement."""

    function = ""

    def module(self, tree: ast.Module) -> None:
        self.block(tree.body, {})

    # ------------------------------------------------------------------------------------------ statements

    def block(self, statements: Sequence[ast.stmt], scope: Scope) -> None:
        for statement in statements:
            walk = getattr(self, f"on_{type(statement).__name__.lower()}", self.on_other)
            walk(statement, scope)

    def on_functiondef(self, node: ast.FunctionDef, scope: Scope) -> None:
        self.define(node, scope)

    def on_classdef(self, node: ast.ClassDef, scope: Scope) -> None:
        for base in node.bases:
            self.facts.fields[f"{node.name}.<base>"] |= self.kinds(base, scope)
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                self.define(part, scope, owner=node.name)
            elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                self.facts.fields[f"{node.name}.{part.target.id}"] |= self.annotated(part.annotation)

    def on_assign(self, node: ast.Assign, scope: Scope) -> None:
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                each = [self.kinds(value, scope) for value in node.value.elts]
                if len(each) == len(target.elts):
                    for part, given in zip(target.elts, each, strict=True):
                        self.assign(part, given, scope)
                    continue
            self.assign(target, self.kinds(node.value, scope), scope)

    def on_annassign(self, node: ast.AnnAssign, scope: Scope) -> None:
        given = self.kinds(node.value, scope) if node.value else NOTHING
        self.assign(node.target, given | self.annotated(node.annotation), scope)

    def on_return(self, node: ast.Return, scope: Scope) -> None:
        if node.value:
            self.facts.returns[self.function] |= self.kinds(node.value, scope)
        self.here = frozenset()

    def on_leaving(self, node: ast.stmt, scope: Scope) -> None:
        self.on_other(node, scope)
        self.here = frozenset()

    on_raise = on_continue = on_break = on_leaving

    def on_for(self, node: ast.For, scope: Scope) -> None:
        self.assign(node.target, items(self.kinds(node.iter, scope)), scope)
        self.loop(node.body + node.orelse, scope)

    def on_while(self, node: ast.While, scope: Scope) -> None:
        self.kinds(node.test, scope)
        self.loop(node.body + node.orelse, scope)

    def on_with(self, node: ast.With, scope: Scope) -> None:
        for item in node.items:
            given = self.kinds(item.context_expr, scope)
            if item.optional_vars:
                self.assign(item.optional_vars, given, scope)
        self.block(node.body, scope)

    def on_other(self, node: ast.stmt, scope: Scope) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.kinds(child, scope)

    def loop(self, body: Sequence[ast.stmt], scope: Scope) -> None:
        before = self.here
        self.block(body, scope)
        self.here = before

    def on_try(self, node: ast.Try, scope: Scope) -> None:
        before = self.here
        self.block(node.body + node.orelse, scope)
        ends = [self.here]
        for handler in node.handlers:
            self.here = before
            self.block(handler.body, scope)
            ends.append(self.here)
        # Whatever leaves, `finally` comes to it.
        self.here = before
        self.block(node.finalbody, scope)
        self.here &= frozenset().union(*ends)

    def on_match(self, node: ast.Match, scope: Scope) -> None:
        self.kinds(node.subject, scope)
        before = ends = self.here
        for case in node.cases:
            self.here = before
            if case.guard:
                self.kinds(case.guard, scope)
            self.block(case.body, scope)
            ends |= self.here
        self.here = ends

    def on_if(self, node: ast.If, scope: Scope) -> None:
        self.kinds(node.test, scope)
        yes, no = self.narrowed(node.test, scope)
        self.here = yes
        self.block(node.body, scope)
        after, self.here = self.here, no
        self.block(node.orelse, scope)
        self.here |= after

    def define(self, node: ast.FunctionDef, scope: Scope, owner: str = "") -> None:
        before = self.here, self.function
        inside = dict(scope)
        for argument in arguments_of(node):
            inside[argument.arg] = frozenset(self.facts.parameters[f"{node.name}.{argument.arg}"])
            if argument.annotation:
                inside[argument.arg] |= self.annotated(argument.annotation)
        if owner and node.args.args:
            inside[node.args.args[0].arg] = frozenset({("own", owner)})
        reached = self.facts.reached[node.name]
        from_anywhere = "" in reached or node.name not in self.facts.called
        self.here = self.table.releases if from_anywhere else frozenset(reached)
        self.function = node.name
        if node.returns:
            self.facts.returns[node.name] |= self.annotated(node.returns)
        self.block(node.body, inside)
        self.here, self.function = before

    def annotated(self, annotation: ast.expr) -> Kinds:
        names = {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)}
        return frozenset(("own", name) for name in names if name in self.facts.classes)

    def assign(self, target: ast.expr, given: Kinds, scope: Scope) -> None:
        match target:
            case ast.Name():
                scope[target.id] = given
            case ast.Tuple() | ast.List():
                for part in target.elts:
                    self.assign(part, NOTHING, scope)
            case ast.Attribute():
                for kind, name in self.kinds(target.value, scope):
                    if kind == "own":
                        self.facts.fields[f"{name}.{target.attr}"] |= given
                    else:
                        self.attribute((kind, name), target, written=True)
