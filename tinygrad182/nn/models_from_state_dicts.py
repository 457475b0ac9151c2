"""A model made from a state dict alone: layers are found by the names and shapes of their weights.

:func:`from_state_dict` returns a :class:`RecurrentNetwork`. Modules of PyTorch are converted in
:mod:`.torch_modules`; ``Module.load_state_dict`` is in :mod:`.module`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from .._suggestions.calls import explains_calls
from ..errors import ArgumentError, StateDictError, brief
from ..tensors.creation import tensor
from ..tensors.tensor import Tensor
from .embedding import Embedding
from .gru import GRU
from .linear import Linear
from .lstm import LSTM
from .module import Module, Parameter, join_path
from .recurrent import RecurrentLayer
from .rnn import RNN

M = TypeVar("M", bound=Module)
Cell = Literal["rnn", "lstm", "gru"]

_CELLS: dict[str, type[RecurrentLayer]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
_BY_BLOCKS = {len(layer.scan.gates): name for name, layer in _CELLS.items()}

_RECURRENT = re.compile(
    r"(?:(?P<prefix>.*)\.)?(?P<kind>(?:weight|bias)_(?:ih|hh)|weight_hr)"
    r"(?:_l(?P<level>\d{1,6})(?P<direction>_reverse)?)?"
)
"""Names of parameters of a recurrent layer, or of a cell (without a level)."""

_APART = re.compile(r".+(?:_[guv]|_orig|\.original\d?)")
"""Names of the parts from which PyTorch computes a weight: weight_norm, pruning, parametrizations …"""

_JOIN = "remove weight_norm (or another parametrization) in PyTorch, and save again"


class RecurrentNetwork(Module):
    """Recurrent layers above each other, with an optional embedding, front and head.

    :func:`from_state_dict` makes it. Its modules have the names that they have in the state dict.

    Attributes
    ----------
    embedding : Embedding or None
        The table of tokens, which runs first.
    front : Linear or None
        The linear layer before the recurrent layers.
    layers : tuple of RecurrentLayer
    head : Linear or None
        The linear layer after them.
    unused : dict of str to tuple of int
        Names and shapes in the state dict that belong to none of these modules.
    notes : tuple of str
        Sentences about assumptions, where the state dict does not say enough.
    """

    def __init__(
        self,
        modules: Mapping[str, Module],
        unused: Mapping[str, tuple[int, ...]] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._items = dict(modules)
        self.layers = self._of_kind(RecurrentLayer)
        self.embedding = next(iter(self._of_kind(Embedding)), None)
        steps = list(self._items.values())
        start = next(i for i, step in enumerate(steps) if isinstance(step, RecurrentLayer))
        self.front = next((step for step in steps[:start] if isinstance(step, Linear)), None)
        self.head = next((step for step in steps[start:] if isinstance(step, Linear)), None)
        self.unused = dict(unused or {})
        self.notes = notes

    def _of_kind(self, kind: type[M]) -> tuple[M, ...]:
        return tuple(module for module in self._items.values() if isinstance(module, kind))

    def _children(self) -> list[tuple[str, Parameter | Module]]:
        return list(self._items.items())

    def forward(self, x: Any) -> Tensor:
        """Map a sequence ``(T, B, I)``, or tokens ``(T, B)``, to the head's output ``(T, B, O)``.

        Without a head, the output of the last layer is returned.
        """
        if self.embedding is not None and x.dtype.kind in "iu":
            x = self.embedding(x)
        if self.front is not None:
            x = self.front(x)
        for layer in self.layers:
            x, _ = layer(x)
        return x if self.head is None else self.head(x)


@explains_calls
def from_state_dict(
    state_dict: Mapping[str, Any],
    cell: Cell | None = None,
    nonlinearity: Any = "tanh",
    head: str | None = None,
    front: str | None = None,
) -> RecurrentNetwork:
    """Make a model from a state dict without its class, such as one from a PyTorch checkpoint.

    Recurrent layers are found by the names of their parameters (``encoder.lstm.weight_ih_l0``, with any
    prefix; cells, whose names have no level, become layers too). Sizes and directions follow from shapes.
    Several recurrent layers run in the order of the state dict; each must read the output of the one
    before. The head is the first linear layer that reads the output of the last. The front is a linear
    layer before them whose output the first one reads. The embedding is a matrix without a bias whose rows
    the first one reads.

    Parameters
    ----------
    state_dict : mapping
        Name → Tensor or array.
    cell : {"rnn", "lstm", "gru"}, optional
        By default the number of blocks of rows in ``weight_hh`` decides, which is the number of gates: 4, 3
        or 1. A given cell must agree with it.
    nonlinearity : {"tanh", "relu", "identity"}, Primitive or callable
        The nonlinearity of an RNN, which a state dict does not say.
    head : str, optional
        The prefix of the linear layer that is the head, such as ``"fc2"``; ``"none"`` for no head.
    front : str, optional
        The prefix of the linear layer before the recurrent ones; ``"none"`` for no front.

    Returns
    -------
    RecurrentNetwork
        Its ``.unused`` lists what was left over, and ``.notes`` what was assumed. Sequences are
        ``(T, B, I)``.

    Raises
    ------
    StateDictError
        There is no recurrent layer, a parameter is missing, or shapes do not fit.
    ArgumentError
        The state dict has another ``cell``, or ``head`` or ``front`` does not exist or does not fit. Or the
        front is not clear, for example because two linear layers come before the recurrent ones.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> state = tg.nn.GRU(3, 8, num_layers=2, rng=0).state_dict()
    >>> tg.nn.from_state_dict(state)
    RecurrentNetwork()  # 744 parameters
      (gru): GRU(3, 8, num_layers=2)
        weight_ih_l0 (24, 3)
        weight_hh_l0 (24, 8)
        bias_ih_l0 (24,)
        bias_hh_l0 (24,)
        weight_ih_l1 (24, 8)
        weight_hh_l1 (24, 8)
        bias_ih_l1 (24,)
        bias_hh_l1 (24,)
    """
    if not isinstance(state_dict, Mapping):
        raise StateDictError(
            f"from_state_dict: {brief(state_dict)} is not a mapping from names to arrays, "
            "such as tg.load(path).model"
        )
    if cell is not None and cell not in _CELLS:
        raise ArgumentError(f"from_state_dict: cell {cell!r} is not one of {', '.join(_CELLS)}")
    return _Reader(state_dict, cell, nonlinearity).model(head, front)


class _Reader:
    """The contents of a state dict, and the names in it that were used."""

    def __init__(self, state_dict: Mapping[str, Any], cell: Cell | None, nonlinearity: Any) -> None:
        self.state: dict[str, Tensor] = {}
        for name, value in state_dict.items():
            try:
                self.state[str(name)] = tensor(value)
            except (TypeError, ValueError) as error:
                raise StateDictError(f"from_state_dict: {name} cannot be read: {error}") from error
        self.cell, self.nonlinearity = cell, nonlinearity
        self.used: set[str] = set()
        self.notes: list[str] = []
        names = list(self.state)
        # safetensors sorts by names: then the order says nothing about the order of layers
        self.places = {} if names == sorted(names) else {name: i for i, name in enumerate(names)}
        self.start = min(
            (i for name, i in self.places.items() if _RECURRENT.fullmatch(name)), default=0
        )

    def model(self, head: str | None, front: str | None) -> RecurrentNetwork:
        layers = self.layers()
        first, last = layers[next(iter(layers))], layers[next(reversed(layers))]
        features = last.hidden_size * (1 + last.bidirectional)
        before = self.front(first.input_size, features, front, head)
        read = next((layer.in_features for layer in before.values()), first.input_size)
        modules: dict[str, Module] = {
            **self.embedding(read, features),
            **before,
            **layers,
            **self.head(features, head),
        }
        if len(layers) > 1:
            self.notes.append(f"The recurrent layers run in this order: {', '.join(layers)}.")
        if any(isinstance(layer, RNN) for layer in layers.values()) and self.nonlinearity == "tanh":
            self.notes.append(
                "A state dict does not say which nonlinearity an RNN has: tanh is assumed."
            )
        unused = {name: value.shape for name, value in self.state.items() if name not in self.used}
        if early := [name for name in unused if self.places.get(name, math.inf) < self.start]:
            names = brief(", ".join(early))[1:-1]
            self.notes.append(
                f"Not run, though it comes before the recurrent layers in the file: {names}. "
                "Apply those layers to a sequence yourself before you pass it on."
            )
        return RecurrentNetwork(modules, unused, tuple(self.notes))

    # --- recurrent layers -------------------------------------------------------------------------

    def layers(self) -> dict[str, RecurrentLayer]:
        """Return all recurrent layers by name; each must read the output of the one before."""
        prefixes: dict[str, None] = {}
        for name in self.state:
            if match := _RECURRENT.fullmatch(name):
                prefixes[match["prefix"] or ""] = None
        if not prefixes:
            some = ", ".join(brief(name)[1:-1] for name in list(self.state)[:4])
            raise StateDictError(
                "from_state_dict: there is no recurrent layer; its names would end in weight_ih_l0 and "
                f"weight_hh_l0, and there are {some or 'no names at all'}"
            )
        found: dict[str, RecurrentLayer] = {}
        given = ""
        for prefix in prefixes:
            layer = self.layer(prefix)
            before = found.get(given)
            size = before and before.hidden_size * (1 + before.bidirectional)
            name = prefix or type(layer).__name__.lower()
            while not prefix and name in prefixes:
                name += "_"
            if size not in (None, layer.input_size):
                raise StateDictError(
                    f"from_state_dict: {name} reads {layer.input_size} numbers a step, but {given} "
                    f"before it returns {size}, so they cannot run one after the other; pass one of them: "
                    f"{{name: value for name, value in state.items() if name.startswith({prefix!r})}}"
                )
            found[name] = layer
            given = name
        return found

    def layer(self, prefix: str) -> RecurrentLayer:
        """Make the recurrent layer with a prefix, with its values."""
        names = self.names(prefix)
        levels = {int(name.removesuffix("_reverse").rpartition("_l")[2]) for name in names}
        for level in range(len(levels)):  # no gaps, so as many levels as layers
            self.matrix(names, f"weight_hh_l{level}", prefix)
        rows, hidden = self.matrix(names, "weight_hh_l0", prefix)
        _, inputs = self.matrix(names, "weight_ih_l0", prefix)
        make = self.kind(names["weight_hh_l0"], rows, hidden)
        options = {"nonlinearity": self.nonlinearity} if make is RNN else {}
        dtype = np.result_type(*(self.state[name].dtype for name in names.values()))
        layer = make(
            inputs,
            hidden,
            num_layers=len(levels),
            bias=any("bias" in name for name in names),
            bidirectional=any(name.endswith("_reverse") for name in names),
            dtype=dtype if dtype.kind == "f" else None,
            rng=0,
            **options,
        )
        self.load(layer, names, prefix)
        return layer

    def names(self, prefix: str) -> dict[str, str]:
        """The full names of a layer's parameters, by their names in the layer itself."""
        found = {}
        for name in self.state:
            match = _RECURRENT.fullmatch(name)
            if match and (match["prefix"] or "") == prefix:
                if match["kind"] == "weight_hr":
                    raise StateDictError(
                        f"from_state_dict: {name} belongs to an LSTM with proj_size, which ours lacks"
                    )
                own = f"{match['kind']}_l{int(match['level'] or 0)}{match['direction'] or ''}"
                found[own] = name
        return found

    def matrix(self, names: Mapping[str, str], own: str, prefix: str) -> tuple[int, int]:
        """Return the shape of a weight, which must be a matrix."""
        if own not in names:
            missing = join_path(prefix, own)
            apart = [name for name in self.state if _APART.fullmatch(name) and own in name]
            remedy = f"; {', '.join(apart)} are parts of it: {_JOIN}" if apart else ""
            there = ", ".join(names.values())
            raise StateDictError(f"from_state_dict: there is {there}, but no {missing}{remedy}")
        shape = self.state[names[own]].shape
        if len(shape) != 2 or 0 in shape:
            raise StateDictError(
                f"from_state_dict: {names[own]} has shape {shape}; it must be a matrix"
            )
        return shape[0], shape[1]

    def kind(self, name: str, rows: int, hidden: int) -> type[RecurrentLayer]:
        """Return the class of layers whose ``weight_hh`` has this number of rows."""
        found = _BY_BLOCKS.get(rows // hidden) if rows % hidden == 0 else None
        said = f"{name} has shape ({rows}, {hidden})"
        if found is None:
            raise StateDictError(
                f"from_state_dict: {said}; it must be (4H, H) of an LSTM, (3H, H) of a GRU or (H, H) of an "
                "RNN"
            )
        if self.cell not in (None, found):
            raise ArgumentError(
                f"from_state_dict: cell is {self.cell!r}, and {said}: {rows // hidden}·{hidden} rows are "
                f"the gates of cell={found!r}"
            )
        return _CELLS[found]

    def load(self, layer: Module, names: Mapping[str, str], prefix: str) -> None:
        """Load the values of a layer; ``names`` maps the layer's own names to those in the state dict."""
        try:
            layer.load_state_dict({own: self.state[name] for own, name in names.items()})
        except StateDictError as error:
            problem = str(error).partition(": ")[2]
            where = f"in {prefix!r}" if prefix else "in the layer without a prefix"
            raise StateDictError(f"from_state_dict: {where}: {problem}") from error
        self.used.update(names.values())

    # --- layers before and after --------------------------------------------------------------

    def matrices(self) -> dict[str, Tensor]:
        """The unused matrices that may belong to a linear layer or an embedding, by their prefix."""
        found = {}
        for name, value in self.state.items():
            prefix, _, own = name.rpartition(".")
            if own == "weight" and value.ndim == 2 and name not in self.used:
                found[prefix] = value
        return found

    def is_before(self, prefix: str) -> bool:
        """Whether a weight comes before the recurrent layers; False if the order says nothing."""
        return self.places.get(join_path(prefix, "weight"), math.inf) < self.start

    def has_bias(self, prefix: str) -> bool:
        return join_path(prefix, "bias") in self.state

    def front(
        self, inputs: int, features: int, asked: str | None, head: str | None
    ) -> dict[str, Linear]:
        """Return the linear layer before the recurrent ones: the requested one, or the only candidate.

        It raises where a wrong guess would go unnoticed: the candidate's output has the size of its input,
        so the model would also run without it, or further layers come before the recurrent ones.
        """
        tables = [p for p in self.matrices() if "emb" in p.lower() and not self.has_bias(p)]
        weights = {p: w for p, w in self.matrices().items() if p not in (*tables, head)}
        reads = {prefix: weight.shape[1] for prefix, weight in weights.items()}
        returns = {prefix: weight.shape[0] for prefix, weight in weights.items()}
        fitting = [prefix for prefix in weights if returns[prefix] == inputs]
        if asked is not None:
            role = f"returns the {inputs} numbers that the first layer reads"
            return self.linear(fitting, asked, role) if asked != "none" else {}
        square = [prefix for prefix in fitting if reads[prefix] == inputs]
        heads = [prefix for prefix in weights if reads[prefix] == features]
        if self.places:
            before = [prefix for prefix in weights if self.is_before(prefix)]
            doubtful = [p for p in square if not self.has_bias(p)]  # may be an embedding
        else:  # a layer that reads the output of a head comes after the recurrent layers
            after = {returns[prefix] for prefix in heads}
            fitting = [
                p for p in fitting if p in square or (p not in heads and reads[p] not in after)
            ]
            read = {reads[p] for p in fitting}
            before = [p for p in weights if p in fitting or returns[p] in read]
            doubtful = square
        fitting = [p for p in fitting if p in before and (heads != [p] or p in square)]
        if not fitting:
            return {}
        prefix = fitting[-1]
        if before != [prefix] or prefix in doubtful or heads == [prefix]:
            raise ArgumentError(
                f"from_state_dict: a state dict does not say what runs before the recurrent layers, and "
                f"{brief(', '.join(before))[1:-1]} may; pass front={prefix!r}; or pass front='none', if "
                f"sequences have the {inputs} numbers a step that the first recurrent layer reads"
            )
        self.notes.append(
            f"{prefix} is taken for the linear layer before the recurrent ones: it returns the {inputs} "
            "numbers that the first of them reads; front='none' leaves it out."
        )
        return self.linear(fitting, prefix, "")

    def linear(self, fitting: list[str], prefix: str, role: str) -> dict[str, Linear]:
        """Make the linear layer with a prefix, which must be one of ``fitting``."""
        weights = self.matrices()
        if prefix not in fitting:
            raise ArgumentError(
                f"from_state_dict: {prefix!r} is not the prefix of a linear layer that {role}; there are "
                f"{', '.join(map(repr, weights)) or 'none'}"
            )
        names = {own: join_path(prefix, own) for own in ("weight", "bias")}
        names = {own: name for own, name in names.items() if name in self.state}
        outputs, inputs = weights[prefix].shape
        layer = Linear(inputs, outputs, "bias" in names, dtype=weights[prefix].dtype, rng=0)
        self.load(layer, names, prefix)
        return {prefix or "linear": layer}

    def embedding(self, inputs: int, features: int) -> dict[str, Module]:
        """Return the embedding: a matrix without a bias whose rows the layers can read.

        One more sign is required: its name, its place before the layers, or, if names are sorted, a shape
        that cannot be the head's.
        """
        for prefix, weight in self.matrices().items():
            alone = not self.has_bias(prefix) and weight.shape[1] == inputs
            named = "emb" in prefix.lower() or self.is_before(prefix)
            if alone and (named or (not self.places and inputs != features)):
                table = Embedding(*weight.shape, dtype=weight.dtype, rng=0)
                self.load(table, {"weight": join_path(prefix, "weight")}, prefix)
                return {prefix or "embedding": table}
        return {}

    def head(self, features: int, asked: str | None) -> dict[str, Linear]:
        """Return the linear layer after the recurrent ones: the requested one, or the first that fits."""
        weights = self.matrices()
        fitting = [prefix for prefix, weight in weights.items() if weight.shape[1] == features]
        if asked == "none" or (asked is None and not fitting):
            return {}
        if asked is not None:
            return self.linear(fitting, asked, f"reads the {features} numbers of the last layer")
        prefix = min(fitting, key=self.is_before)
        if len(weights) > 1:
            self.notes.append(
                f"There are {len(weights)} linear layers; {prefix} is taken for the head, the first that "
                "reads the output of the last recurrent layer: a state dict does not say what runs between."
            )
        return self.linear(fitting, prefix, "")
