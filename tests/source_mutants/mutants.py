"""The mutants of mutmut, each one function with one change, and how to put one in place.

mutmut itself puts a switch in front of every function. Here the function gets the mutated code
instead, so that a call stack looks as it always does, and nothing slows down.
"""

from __future__ import annotations
import __future__ as future

import difflib
import importlib
import pkgutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

import tinygrad182 as tg

MUTATED = (
    "primitives",
    "autodiff",
    "backpropagation",
    "recording",
    "memory",
    "transforms",
    "recomputing",
)
"""The packages and modules that are changed, by their last names, wherever in tinygrad182 they are."""


def _modules() -> list[ModuleType]:
    names = [module.name for module in pkgutil.walk_packages(tg.__path__, "tinygrad182.")]
    absent = set(MUTATED).difference(*(name.split(".") for name in names))
    assert not absent, f"tinygrad182 has no module of these names: {absent}"
    return [importlib.import_module(n) for n in names if not {*MUTATED}.isdisjoint(n.split("."))]


MODULES = {Path(str(m.__file__)).relative_to(Path.cwd()): m for m in _modules()}
FILES = list(MODULES)


@dataclass
class Mutant:
    """One change of one function."""

    file: str
    function: str  # qualified, such as ``Node.free``
    lines: range  # of what is changed
    around: range  # of the function
    before: str
    after: str

    @property
    def where(self) -> str:
        """The function: ``recording.Node.free``."""
        return f"{Path(self.file).stem}.{self.function}"

    @property
    def key(self) -> str:
        """The function, the line in it, and the difference."""
        diff = [*difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), n=0)]
        changed = [line for line in diff[2:] if line[0] in "+-"]
        return "\n".join([f"{self.where}:{self.lines.start - self.around.start}", *changed])

    def install(self) -> None:
        """Give the module's function the mutated code."""
        module = MODULES[Path(self.file)]
        owner, _, name = self.function.rpartition(".")
        text = f"class {owner}:\n{textwrap.indent(self.after, '    ')}" if owner else self.after
        mutated = dict(vars(module))
        code = compile(text, Path(self.file).resolve(), "exec", future.annotations.compiler_flag)
        exec(code, mutated)
        old, new = (vars(d[owner])[name] if owner else d[name] for d in (vars(module), mutated))
        old, new = (f.fget if isinstance(f, property) else f for f in (old, new))
        for part in ("__code__", "__defaults__", "__kwdefaults__"):
            setattr(old, part, getattr(new, part))


class _Visitor(MutationVisitor):
    """Also goes into decorated functions, which mutmut could not switch."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        return not isinstance(node, cst.FunctionDef) and super()._skip_node_and_children(node)


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    wrapper = MetadataWrapper(cst.parse_module(path.read_text()), unsafe_skip_copy=True)
    visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    at = {node: range(p.start.line, p.end.line + 1) for node, p in positions.items()}
    classes = [c for c in module.body if isinstance(c, cst.ClassDef)]
    owner = {f: f"{c.name.value}." for c in classes for f in c.body.body}
    for mutation in visitor.mutations:
        function = mutation.contained_by_top_level_function
        if not isinstance(function, cst.FunctionDef):
            continue
        mutated = deep_replace(function, mutation.original_node, mutation.mutated_node)
        before, after = (module.code_for_node(f).strip() for f in (function, mutated))
        name = owner.get(function, "") + function.name.value
        lines = at.get(mutation.original_node, at[function])
        yield Mutant(str(path), name, lines, at[function], before, after)
