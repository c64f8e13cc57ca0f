"""What an expression may be of TensorRT's, and the uses within it: the half of `trt_uses` below statements."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from trt_table import Releases, Table, accepts

__all__ = ["NOTHING", "ROOT", "Facts", "Kind", "Kinds", "Scope", "Use", "Values", "arguments_of", "items"]

Kind = tuple[str, str]
"""What a value is: `("module", "")`, `("class", NAME)`, `("object", NAME)`, `("method", NAME)`, `("list", NAME)`
of TensorRT; `("own", NAME)` an object of a class of the source; `("missing", NAME)` besides, where it may be None
since a release lacks NAME."""
Kinds = frozenset[Kind]
NOTHING: Kinds = frozenset()
ROOT = "import_flavour"
Scope = dict[str, Kinds]
Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
OF_TENSORRT = {"module", "class", "object"}


@dataclass(frozen=True, order=True)
class Use:
    """One name of TensorRT that a line of a source uses, in the releases that can reach the line."""

    file: str
    line: int
    name: str
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}{self.fault}"


@dataclass
class Facts:
    """What is known of the source's own functions and classes; it only grows."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    fields: defaultdict[str, set[Kind]] = field(default_factory=lambda: defaultdict(set))
    parameters: defaultdict[str, set[Kind]] = field(default_factory=lambda: defaultdict(set))
    returns: defaultdict[str, set[Kind]] = field(default_factory=lambda: defaultdict(set))
    reached: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def size(self) -> int:
        known = (self.fields, self.parameters, self.returns, self.reached)
        return sum(len(values) for table in known for values in table.values())


class Values:
    """Follows values; `here` is the set of releases that can reach the expression at hand."""

    def __init__(self, file: str, table: Table, facts: Facts, uses: set[Use]) -> None:
        self.file, self.table, self.facts, self.uses = file, table, facts, uses
        self.here: Releases = table.releases

    # ----------------------------------------------------------------------------------------- expressions

    def kinds(self, node: ast.expr, scope: Scope) -> Kinds:
        """Return what an expression may be, and note each use within it."""
        walk: Callable[[ast.expr, Scope], Kinds] = getattr(self, f"of_{type(node).__name__.lower()}", self.of_other)
        return walk(node, scope)

    def of_other(self, node: ast.expr, scope: Scope) -> Kinds:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.kinds(child, scope)
        return NOTHING

    def of_name(self, node: ast.Name, scope: Scope) -> Kinds:
        return scope.get(node.id, NOTHING)

    def of_attribute(self, node: ast.Attribute, scope: Scope) -> Kinds:
        return frozenset().union(*(self.attribute(kind, node) for kind in self.kinds(node.value, scope)))

    def of_subscript(self, node: ast.Subscript, scope: Scope) -> Kinds:
        self.kinds(node.slice, scope)
        return items(self.kinds(node.value, scope))

    def of_lambda(self, node: ast.Lambda, scope: Scope) -> Kinds:
        return self.kinds(node.body, {**scope, **{argument.arg: NOTHING for argument in node.args.args}})

    def of_namedexpr(self, node: ast.NamedExpr, scope: Scope) -> Kinds:
        scope[node.target.id] = self.kinds(node.value, scope)
        return scope[node.target.id]

    def attribute(self, of: Kind, node: ast.Attribute, *, written: bool = False) -> Kinds:
        kind, owner = of
        if kind == "own":
            return self.own_attribute(owner, node)
        if kind not in OF_TENSORRT:
            return NOTHING
        path = f"{owner}.{node.attr}" if owner else node.attr
        found = self.table.find(owner, node.attr)
        lacking = self.here - found.keys()
        if lacking:
            self.note(node, path, f" is not in {releases_told(lacking)}")
        elif written and any("read-only" in found[label] for label in self.here):
            self.note(node, path, " can't be set")
        else:
            self.note(node, path)
        return frozenset().union(*(self.meant(path, told) for told in found.values()))

    def own_attribute(self, owner: str, node: ast.Attribute) -> Kinds:
        known = frozenset(self.facts.fields[f"{owner}.{node.attr}"])
        methods = {part.name for part in self.facts.classes[owner].body if isinstance(part, ast.FunctionDef)}
        if node.attr in methods:
            return frozenset(self.facts.returns[node.attr])
        bases = self.facts.fields[f"{owner}.<base>"]
        own = f"{owner}.{node.attr}" in self.facts.fields and known
        if bases and not own and any(self.table.find(name, node.attr) for _, name in bases):
            return frozenset().union(*(self.attribute(("object", name), node) for _, name in bases))
        return known

    def meant(self, path: str, told: str) -> Kinds:
        """Return what a name of the table stands for."""
        if told.startswith("class"):
            return frozenset({("class", path)})
        if told == "member":
            return frozenset({("object", path.rpartition(".")[0])})
        if told.startswith(("property", "read-only", "value ->")):
            return self.named(told.rpartition("-> ")[2])
        return frozenset({("method", path)}) if told.startswith("(") or told == "callable" else NOTHING

    def named(self, text: str) -> Kinds:
        inner = text.removeprefix("list[").removesuffix("]")
        name = self.table.class_named(inner)
        return frozenset({("list" if inner != text else "object", name)}) if name else NOTHING

    def of_call(self, node: ast.Call, scope: Scope) -> Kinds:
        given = [self.kinds(argument, scope) for argument in node.args]
        keywords = {word.arg: self.kinds(word.value, scope) for word in node.keywords}
        if isinstance(node.func, ast.Name):
            match node.func.id:
                case "getattr" | "hasattr":
                    return self.looked_up(node, given[0])
                case name if name == ROOT:
                    return frozenset({("module", "")})
                case name if name in self.facts.classes:
                    for key, kinds in keywords.items():
                        self.facts.fields[f"{name}.{key}"] |= kinds
                    return frozenset({("own", name)})
                case name if name in self.facts.functions and name not in scope:
                    return self.own_call(name, given, keywords)
                case "tuple" | "list" | "sorted":
                    return given[0] if given else NOTHING
        found = (self.made(kind, node) for kind in self.kinds(node.func, scope))
        return frozenset().union(*found)

    def own_call(self, name: str, given: Sequence[Kinds], keywords: dict[str | None, Kinds]) -> Kinds:
        function = self.facts.functions[name]
        for argument, kinds in zip(arguments_of(function), given, strict=False):
            self.facts.parameters[f"{name}.{argument.arg}"] |= kinds
        for key, kinds in keywords.items():
            self.facts.parameters[f"{name}.{key}"] |= kinds
        self.facts.reached[name] |= self.here
        return frozenset(self.facts.returns[name])

    def made(self, of: Kind, node: ast.Call) -> Kinds:
        """Return what a call of a method or class of TensorRT gives; note a call that a release refuses."""
        kind, path = of
        if kind not in {"class", "method"}:
            return NOTHING
        owner, name = (path, "__init__") if kind == "class" else (path.rpartition(".")[0], path.rpartition(".")[2])
        found = self.table.find(owner, name)
        # `ILogger.__init__(self)`: a method taken from its class gets its object too.
        unbound = isinstance(node.func, ast.Attribute) and name == "__init__" and kind == "method"
        keywords = [word.arg for word in node.keywords if word.arg]
        if not any(isinstance(argument, ast.Starred) for argument in node.args) and len(keywords) == len(node.keywords):
            count = len(node.args) - unbound
            refused = {label for label in self.here & found.keys() if not accepts(found[label], count, keywords)}
            if refused:
                told = "; ".join(sorted({found[label] for label in refused}))
                self.note(
                    node, f"{path}()", f" is called with other arguments than {releases_told(refused)} takes: {told}"
                )
        if kind == "class":
            return frozenset({("object", path)})
        returned = (line.rpartition("-> ")[2] for told in found.values() for line in told.splitlines())
        return frozenset().union(*(self.named(text) for text in returned))

    def looked_up(self, node: ast.Call, of: Kinds) -> Kinds:
        """`getattr` and `hasattr`: with a default, or for a test, a name may be missing."""
        if not isinstance(node.args[1], ast.Constant):
            return NOTHING
        name = str(node.args[1].value)
        plain = ast.copy_location(ast.Attribute(value=node.args[0], attr=name, ctx=ast.Load()), node)
        tested = len(node.args) == 3 or (isinstance(node.func, ast.Name) and node.func.id == "hasattr")
        before = self.here
        meant: Kinds = NOTHING
        for kind, owner in of:
            having = frozenset(self.table.find(owner, name))
            self.here = before & having if tested else before
            meant |= self.attribute((kind, owner), plain)
            if tested and kind in OF_TENSORRT:
                meant |= {("missing", f"{owner}.{name}" if owner else name)}
        self.here = before
        return meant

    def of_ifexp(self, node: ast.IfExp, scope: Scope) -> Kinds:
        before = self.here
        self.kinds(node.test, scope)
        yes, no = self.narrowed(node.test, scope)
        self.here = yes
        given = self.kinds(node.body, scope)
        self.here = no
        given |= self.kinds(node.orelse, scope)
        self.here = before
        return given

    def of_boolop(self, node: ast.BoolOp, scope: Scope) -> Kinds:
        """Each operand is reached where those before it let it."""
        before, given = self.here, NOTHING
        for value in node.values:
            given |= self.kinds(value, scope)
            yes, no = self.narrowed(value, scope)
            self.here = yes if isinstance(node.op, ast.And) else no
        self.here = before
        return given

    def comprehension(self, node: Comprehension, scope: Scope) -> Kinds:
        before, inside = self.here, dict(scope)
        for generator in node.generators:
            self.assign(generator.target, items(self.kinds(generator.iter, inside)), inside)
            for test in generator.ifs:
                self.kinds(test, inside)
                self.here = self.narrowed(test, inside)[0]
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        made = frozenset().union(*(self.kinds(part, inside) for part in parts))
        self.here = before
        return frozenset(("list", name) for kind, name in made if kind == "object")

    of_listcomp = of_setcomp = of_generatorexp = of_dictcomp = comprehension

    # ---------------------------------------------------------------------------------------------- tests

    def narrowed(self, test: ast.expr, scope: Scope) -> tuple[Releases, Releases]:
        """Return the releases that can reach what follows a test, where it holds and where it does not."""
        here = self.here
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yes, no = self.narrowed(operand, scope)
                return no, yes
            case ast.BoolOp(op=operator, values=values):
                return self.narrowed_by_all(values, scope, every=isinstance(operator, ast.And))
            case ast.Call(func=ast.Name(id="hasattr"), args=[value, ast.Constant(value=str(name))]):
                owners = [owner for kind, owner in self.kinds(value, scope) if kind in OF_TENSORRT]
                having = frozenset(label for owner in owners for label in self.table.find(owner, name))
                return (here & having, here - having) if owners else (here, here)
            case ast.Compare(left=left, ops=[operator], comparators=[ast.Constant(value=value)]):
                same = self.where_equal(left, value, scope)
                if same is None:
                    return here, here
                return (same, here - same) if isinstance(operator, ast.Is | ast.Eq) else (here - same, same)
        return here, here

    def narrowed_by_all(self, values: Sequence[ast.expr], scope: Scope, *, every: bool) -> tuple[Releases, Releases]:
        before, others = self.here, frozenset[str]()
        for value in values:
            yes, no = self.narrowed(value, scope)
            self.here, left = (yes, no) if every else (no, yes)
            others |= left
        last, self.here = self.here, before
        return (last, others) if every else (others, last)

    def where_equal(self, left: ast.expr, value: object, scope: Scope) -> Releases | None:
        """Return in which releases a value equals a constant; None where that can't be told."""
        if value in {"tensorrt", "tensorrt-rtx"}:
            return frozenset(label for label in self.here if label.startswith("RTX") == (value == "tensorrt-rtx"))
        if value is None:
            paths = [name for kind, name in self.kinds(left, scope) if kind == "missing"]
            having = [self.table.find(path.rpartition(".")[0], path.rpartition(".")[2]) for path in paths]
            return self.here - frozenset().union(*having) if paths else None
        return None

    def note(self, node: ast.expr, name: str, fault: str = "") -> None:
        if self.here:
            self.uses.add(Use(self.file, node.lineno, name, fault))


def arguments_of(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def items(kinds: Kinds) -> Kinds:
    return frozenset(("object", name) for kind, name in kinds if kind == "list")


def releases_told(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels))
