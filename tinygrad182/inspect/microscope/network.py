"""The rolled network: modules and recurrences as boxes, and the gradients that flow between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """One box of the rolled network.

    Attributes
    ----------
    path : str
        Of the module, or of the recurrence as in :func:`gradient_flow`; ``""`` for what lies outside
        any module.
    title : str
        What a reader calls it: ``"LSTM 8 → 64"``, ``"Linear 64 → 1"``, ``"loss"``, ``"input"``.
    kind : {"input", "recurrence", "module", "loss"}
    states : tuple of str
        Of a recurrence: the names of the states that its loop carries.
    steps : int
        Of a recurrence: T (or the depth); 1 for others.
    log10_grad_norm : float
        The gradient that leaves the box, towards what it was computed from.
    """

    path: str
    title: str
    kind: str
    states: tuple[str, ...]
    steps: int
    log10_grad_norm: float


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow between two boxes, by their positions in :attr:`Network.blocks`.

    Attributes
    ----------
    source, target : int
        What is computed goes from ``source`` to ``target``; the gradient goes the other way.
    log10_norm : float
        Of the gradient that goes back over it.
    """

    source: int
    target: int
    log10_norm: float


@dataclass(frozen=True, slots=True)
class Network:
    """Boxes in the order their first operation was recorded, and the arrows between them."""

    blocks: tuple[Block, ...]
    links: tuple[Link, ...]
