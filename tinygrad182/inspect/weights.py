"""The gradient by a weight, split by the time step it was used at."""

from __future__ import annotations

from typing import Any

from .. import backend
from .._tensor import Tensor
from ..autodiff import seeds_of
from ..backend import Array, device_of
from ..backpropagation import ancestors
from ..errors import DTypeError, UnknownPathError
from ..recording import Leaf, Node, is_tensor, node_of
from . import fused_weights
from .hosting import on_host
from .parts import CheckedParts, norms, whole
from .recurrences import Wanted, chosen
from .uses import Uses

CHUNK = 4_000_000
"""How many elements are carried at once, for some steps together."""


def weight_grad_by_time(
    loss: Tensor,
    weight: Tensor | str,
    norm_only: bool = False,
    *,
    times: Wanted = None,
) -> Any:
    """∂L/∂W as a sum over time: what each step's use of W contributes.

    For z_t = x_t Wᵀ + …, part t is G_t = δ_{z_t}ᵀ x_t; together they are the gradient. This holds
    also where all steps were computed in one product, whose result is then told apart along its
    time axis. Uses of W outside any time step (a penalty on it) belong to none and are left out. In a
    loop of your own, mark every part of the state, and the initial one with ``time=-1``. To which step
    an operation between states belongs is said in :func:`tinygrad182.inspect.times.places`.

    That the parts and what is left out add up to the gradient is checked in every call.

    Parameters
    ----------
    loss : Tensor
        A single element.
    weight : Tensor or str
        A leaf that requires grad, such as ``rnn.weight_hh_l0``, or the dotted path that its module has
        it under.
    norm_only : bool
        Return the norms alone, without holding T matrices.
    times : int or sequence of int, optional
        The time steps that are asked for; by default all. The others are computed too, for the check,
        and not kept.

    Returns
    -------
    array ``(T, *W.shape)`` in W's dtype, or ndarray ``(T,)`` of Frobenius norms in float64
        By time step, from 0 to the last that the loss depends on, or those of ``times`` in the order of
        time; zeros where W was not used. Norms are true also where the parts under- or overflow in W's
        dtype.

    Raises
    ------
    GraphError
        The loss depends on W in no time step, or in an operation on several steps that has no known
        time axis (on states that were averaged or reshaped before); or the parts do not add up.
    UnknownPathError
        No parameter of that path.
    ArgumentError
        A step that there is not.

    Notes
    -----
    Time is linear in T. Beside the graph and its gradients, T matrices of W's size are held, or those
    of ``times``. With ``norm_only``, or a few steps, some 4 million numbers are worked on at once, in
    about 100 MB, however long the sequence is.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> rnn = tg.nn.RNN(1, 4, rng=0, dtype="float64")
    >>> output, _ = rnn(tg.ones((10, 1, 1), dtype="float64"))
    >>> loss = output[-1].sum()
    >>> parts = tg.inspect.weight_grad_by_time(loss, rnn.weight_hh_l0)
    >>> parts.shape
    (10, 4, 4)
    >>> tg.inspect.weight_grad_by_time(loss, "weight_hh_l0", times=[8, 9]).shape
    (2, 4, 4)
    >>> loss.backward()
    >>> bool(abs(parts.sum(axis=0) - rnn.weight_hh_l0.grad.numpy()).max() < 1e-14)
    True
    """
    if not (isinstance(weight, str) or is_tensor(weight)):
        raise DTypeError(
            f"weight_grad_by_time: the weight is a {type(weight).__name__}; pass the Tensor, such as "
            "rnn.weight_hh_l0, or its path"
        )
    root, seed = seeds_of([loss], [None], False, "weight_grad_by_time")[0]
    leaf = _named(root, weight) if isinstance(weight, str) else node_of(weight)
    device = device_of(leaf.value)
    here = on_host([(root, seed)])
    ((root, seed),), leaf = here.seeds, here.twin(leaf)
    parts = _parts(root, seed, leaf)
    wanted = chosen(times, range(parts.steps), "weight_grad_by_time")
    if norm_only:
        return norms(parts, wanted)
    return backend.move(whole(parts, wanted, leaf.value), device)


def _named(root: Node, path: str) -> Node:
    """The parameter of a graph that has a dotted path."""
    leaves = [n for n in ancestors([root]) if isinstance(n, Leaf) and n.name]
    found = [leaf for leaf in leaves if leaf.name == path]
    if len(found) != 1:
        count = "several parameters are" if found else "no parameter is"
        raise UnknownPathError(
            f"weight_grad_by_time: {count} called {path!r}; there is "
            f"{', '.join(sorted({repr(leaf.name) for leaf in leaves})) or 'none with a path'}; "
            "or pass the Tensor itself, such as rnn.weight_hh_l0"
        )
    return found[0]


def _parts(root: Node, seed: Array, leaf: Node) -> CheckedParts:
    """What each step contributes, in a graph on the host."""
    if scans := fused_weights.scans_using(root, leaf):
        return fused_weights.contributions(root, seed, leaf, scans, CHUNK)
    uses = Uses(root, leaf)
    return uses.contributions(seed, CHUNK)
