"""Sort the operations of a graph into the boxes of the rolled network."""

from __future__ import annotations

from dataclasses import dataclass

from ...engine.recording import Leaf, Node
from ...errors import GraphError, ShapeError
from ...recurrence.scans import is_scan
from ..loops.recurrences import Stack, stacks_of

Key = tuple[str | int, ...]
"""The key of a box: its kind, and a path or the sequence number of its first operation."""

INPUT: Key = ("input", "")
LOSS: Key = ("loss", "")
EVERYTHING: Key = ("module", "")

MOST_LOOSE = 12
"""With more boxes outside modules than this, the operations of one module share a box."""


@dataclass(frozen=True)
class Blocks:
    """The nodes of a graph by box.

    Attributes
    ----------
    members : dict of Key to list of Node
        Oldest first, parameters and constants with the operation that first uses them. Boxes are in the
        order of their first operation, the input first and the loss last.
    crossings : dict of (Key, Key) to list of Node
        Source and target → the nodes of the source that operations of the target read.
    stacks : dict of Key to Stack
        The states of boxes that are recurrences.
    uses : dict of Node to set of Key
        The boxes whose operations read a node.
    key : dict of Node to Key
        The box of every node.
    """

    members: dict[Key, list[Node]]
    crossings: dict[tuple[Key, Key], list[Node]]
    stacks: dict[Key, Stack]
    uses: dict[Node, set[Key]]
    key: dict[Node, Key]


def blocks_of(nodes: list[Node]) -> Blocks:
    """Sort the nodes of a whole graph, oldest first and with constants, into boxes.

    A recurrence has what leads from one of its states to the next, and what only its steps read. An
    operation in a module that has no modules inside belongs to that module. One outside such modules
    joins what it was computed from, if that is one box, and else begins a box of its own; those behind the
    last module are the loss.

    Linear in the number of nodes.
    """
    return _Sorting(nodes).sorted()


def _stacks(nodes: list[Node]) -> dict[str, Stack]:
    """The recurrences of a graph by path.

    There are none if they cannot be distinguished, or if the states of one change their shape.
    """
    try:
        found = stacks_of(nodes, "network_of")
        for recurrence in [r for stack in found.values() for r in stack.values()]:
            recurrence.check_shapes("network_of")
    except (GraphError, ShapeError):
        return {}
    return found


class _Sorting:
    """The search for the boxes of the nodes of one graph."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.key: dict[Node, Key] = {}
        self.stacks: dict[Key, Stack] = {
            ("recurrence", path): stack for path, stack in _stacks(nodes).items()
        }
        self.operands = {n: [x for x in n.inputs or () if isinstance(x, Node)] for n in nodes}
        self.readers: dict[Node, list[Node]] = {}
        for node in nodes:
            for x in self.operands[node]:
                self.readers.setdefault(x, []).append(node)
        self.containers = _containers(nodes)
        self.given, self.pure = _given(self.operands)

    def sorted(self) -> Blocks:
        """The boxes."""
        if not self.stacks and all(self.is_loose(node) for node in self.nodes):
            self.key = dict.fromkeys(self.nodes, EVERYTHING)
        else:
            self._take_recurrences()
            self._take_modules()
            self._take_loss()
            self._take_loose()
            self._take_rest()
            self._take_initial_states()
        return self._as_blocks()

    def is_loose(self, node: Node) -> bool:
        """Whether a node was recorded outside any module that has no other inside."""
        return isinstance(node, Leaf) or node.scope.module in self.containers

    # --- recurrences ----------------------------------------------------------------------------

    def _take_recurrences(self) -> None:
        """Give every recurrence its states and the operations between them."""
        keys = list(self.stacks)
        own: dict[Node, int] = {}
        initial: dict[Node, int] = {}
        homes: dict[tuple[str, int], Key] = {}
        for i, stack in enumerate(self.stacks.values()):
            for r in stack.values():
                own.update(dict.fromkeys(r.states(), 1 << i))
                if r.initial is not None:
                    initial[r.initial] = initial.get(r.initial, 0) | 1 << i
                if r.module not in self.containers:
                    homes.setdefault((r.module, r.call), keys[i])
        behind, ahead = self._reached(own, initial)
        for node in self.nodes:
            home = homes.get((node.scope.module, node.scope.call))
            bits = own.get(node) or behind[node] & ahead[node] & ~initial.get(node, 0)
            if bits:
                self.key[node] = keys[(bits & -bits).bit_length() - 1]
            elif home is not None and not isinstance(node, Leaf):
                self.key[node] = home
        self._take_what_steps_read()

    def _reached(
        self, own: dict[Node, int], initial: dict[Node, int]
    ) -> tuple[dict[Node, int], dict[Node, int]]:
        """The recurrences, as bits, of the nearest states before every node and after it."""
        behind: dict[Node, int] = {}
        for node in self.nodes:
            bits = own.get(node, 0)
            if not bits:
                for x in self.operands[node]:
                    bits |= behind[x]
            behind[node] = bits | initial.get(node, 0)
        ahead: dict[Node, int] = dict.fromkeys(self.nodes, 0)
        for node in reversed(self.nodes):
            bits = own.get(node, 0) or (0 if node in initial else ahead[node])
            if bits:
                for x in self.operands[node]:
                    ahead[x] |= bits
        return behind, ahead

    def _take_what_steps_read(self) -> None:
        """Give recurrences the operations of their steps' modules that they alone read."""
        inside: dict[Key, set[str]] = {}
        for node, key in self.key.items():
            inside.setdefault(key, set()).add(node.scope.module)
        for key, stack in self.stacks.items():
            inside.setdefault(key, set()).update(r.module for r in stack.values())
        for node in reversed(self.nodes):
            if node not in self.key and not isinstance(node, Leaf):
                only = self._only(self.readers.get(node, []))
                if only is not None and node.scope.module in inside[only]:
                    self.key[node] = only

    def _only(self, nodes: list[Node]) -> Key | None:
        """The common box of some nodes, if they have one."""
        keys = {self.key.get(node) for node in nodes}
        return keys.pop() if len(keys) == 1 else None

    # --- the rest -------------------------------------------------------------------------------

    def _take_modules(self) -> None:
        for node in self.nodes:
            if node not in self.key and not self.is_loose(node):
                self.key[node] = ("module", node.scope.module)

    def _take_loss(self) -> None:
        """Give the loss the operations behind the last module, if the last operation is one of them."""
        root = self.nodes[-1]
        if root in self.key:
            return
        leads: set[Node] = set()
        for node in reversed(self.nodes):
            if node in self.key or node in leads:
                leads.update(self.operands[node])
            ends = node not in self.key and node not in leads and not isinstance(node, Leaf)
            if ends and node.scope.module == root.scope.module:
                self.key[node] = LOSS

    def _take_loose(self) -> None:
        """Let each remaining operation join the box of its operands, or begin a new box."""
        begun: dict[Key, Node] = {}
        for node in self.nodes:
            if node in self.key or isinstance(node, Leaf) or node in self.pure:
                continue
            sources = {self.key[x] for x in self.operands[node] if x in self.key}
            weighs = any(x in self.pure for x in self.operands[node])
            if len(sources) == 1 and (not weighs or sources <= begun.keys()):
                (self.key[node],) = sources
            elif sources:
                own: Key = ("module", node.scope.module, node.order)
                begun[own], self.key[node] = node, own
        if len(begun) > MOST_LOOSE:
            for node, key in self.key.items():
                if key in begun:
                    self.key[node] = ("module", begun[key].scope.module, 0)

    def _take_rest(self) -> None:
        """Give parameters, constants and nodes computed from them alone to their first reader."""
        for node in reversed(self.nodes):
            if node in self.key:
                continue
            reader = self.readers[node][0] if node in self.readers else None
            key = LOSS if reader is None else self.key[reader]
            self.key[node] = INPUT if self._is_input(node, reader, key) else key

    def _is_input(self, node: Node, reader: Node | None, key: Key) -> bool:
        """Whether a leaf is an input of the network, and not a target of the loss."""
        if not isinstance(node, Leaf) or reader is None or key == LOSS:
            return False
        if node in self.given:
            return True
        added = key in self.stacks and not is_scan(reader)
        return added and not (node.requires_grad or node.marks) and has_gradient(node)

    def _take_initial_states(self) -> None:
        """Give your own loop its initial state if that is not marked; the loop reads it once.

        A leaf with a state's shape is an input instead, if later steps read others like it.
        """
        for key, stack in self.stacks.items():
            states = [next(r.states()) for r in stack.values() if not r.fused]
            read = {x for node in self.nodes if self.key[node] == key for x in self.operands[node]}
            leaves = [x for x in read if self.key[x] == INPUT]
            for state in states:
                alike = [x for x in leaves if x.value.shape == state.value.shape]
                if all(x.order < state.order for x in alike):
                    self.key.update(dict.fromkeys(alike, key))

    def _as_blocks(self) -> Blocks:
        members: dict[Key, list[Node]] = {}
        crossings: dict[tuple[Key, Key], dict[Node, None]] = {}
        uses: dict[Node, set[Key]] = {}
        for node in self.nodes:
            if not isinstance(node, Leaf) and node not in self.pure:
                members.setdefault(self.key[node], [])
        members = {INPUT: [], **{k: m for k, m in members.items() if k != LOSS}, LOSS: []}
        for node in self.nodes:
            key = self.key[node]
            members.setdefault(key, []).append(node)
            for x in self.operands[node]:
                source = self.key[x]
                uses.setdefault(x, set()).add(key)
                if (
                    source != key
                    and x not in self.pure
                    and (source == INPUT or type(x) is not Leaf)
                ):
                    crossings.setdefault((source, key), {})[x] = None
        found = {key: list(some) for key, some in crossings.items()}
        return Blocks({k: m for k, m in members.items() if m}, found, self.stacks, uses, self.key)


def has_gradient(node: Node) -> bool:
    """Whether a node holds floating-point numbers, so that it can have a gradient."""
    return str(node.value.dtype).startswith(("float", "complex"))


def _containers(nodes: list[Node]) -> set[str]:
    """The paths of modules that have modules inside, and "" for none.

    The outermost module is listed by its class's name, which is not a prefix of the paths inside it.
    """
    scopes = {
        (n.scope.module, id(n.scope.names)): n.scope for n in nodes if not isinstance(n, Leaf)
    }
    found = {""}
    for scope in scopes.values():
        paths = _heads(scope.module)
        found.update(paths[:-1])
        inside = set(scope.names.values())
        if (inside and inside.isdisjoint(paths)) or any(
            scope.module in _heads(p)[:-1] for p in inside
        ):
            found.add(scope.module)
    return found


def _heads(path: str) -> list[str]:
    """The path of a module and of those around it, the outermost first."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _given(operands_of: dict[Node, list[Node]]) -> tuple[set[Node], set[Node]]:
    """The leaves that are inputs of the network, and the nodes computed from parameters alone.

    An input is the first operand of a recurrence, or the only operand of its reader that is not a
    parameter. A tensor that requires grad and has no name is a parameter, unless it meets a module's
    parameters in this way.
    """
    given: set[Node] = set()
    named: set[Node] = set()
    pure: set[Node] = set()
    for node, operands in operands_of.items():
        if isinstance(node, Leaf):
            if node.requires_grad and not node.marks:
                pure.add(node)
                if node.name:
                    named.add(node)
            continue
        for x in operands[:1] if is_scan(node) else operands:
            if isinstance(x, Leaf) and x not in named and not x.marks:
                others = {y for y in operands if y is not x}
                known = named if x.requires_grad else pure
                comes_in = others <= known if others else node.op == "index"
                if is_scan(node) or comes_in:
                    given.add(x)
                    pure.discard(x)
        if not is_scan(node) and not node.marks:
            if pure.issuperset(operands):
                pure.add(node)
            if named.issuperset(operands):
                named.add(node)
    return given, pure
