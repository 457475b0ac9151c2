"""``watch``: norms of gradients over time, kept at every N-th training step while a training loop runs."""

from __future__ import annotations

import threading
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..._numbers import check_whole
from ...engine.anomaly import user_place
from ...engine.autodiff import observe
from ...engine.recording import Node
from ...errors import ArgumentError, DTypeError, GraphError, TinygradError, brief
from ...nn import Module
from ...tensors.tensor import Tensor
from ..passes.scaling import log10
from ..views.gradient_flow import gradient_flow
from .file import Appended, Moment, Norms, Record, end_line, moment_line
from .watched import Watched


class Watch(Watched):
    """A run that is being watched; see :func:`watch`.

    It shows itself as a :class:`Watched` does, also while training goes on.

    Attributes
    ----------
    passes : int
        The number of backward passes of the model until now: the training step that comes next.
    """

    def __init__(
        self, model: Module, every: int | None, path: str | Path | None, step: int
    ) -> None:
        record = Record(repr(model), every)
        self._file = None if path is None else _opened(path, record, step)
        super().__init__(record)
        self._model = weakref.ref(model)
        self.passes = step
        self._lock = threading.RLock()
        self._warned = False
        self._unobserve = observe(self)
        # A watch that writes a file is there until its model goes, even if nobody else holds it.
        self._last = None if path is None else weakref.finalize(model, self._end, _GONE)

    def before_backward(self, output: Tensor, gradient: Any) -> None:
        """Record every N-th backward pass of the model."""
        model = self._model()
        if model is None or not _takes_part(model, output):
            return
        with self._lock:
            if self.every is not None and self.passes % self.every == 0:
                self._look(output, gradient)
            self.passes += 1

    def _look(self, output: Tensor, gradient: Any) -> None:
        """Record a pass. A later loss without states, such as a penalty on weights, only warns."""
        try:
            self._keep(output, gradient)
        except GraphError as error:
            if type(error) is not GraphError or not self._moments:
                raise
            if not self._warned:
                self._warned = True
                _warn(
                    f"watch: nothing is kept at training step {self.passes}, nor where this happens "
                    f"again; training goes on. {error}"
                )

    def record(self, loss: Tensor, gradient: Any = None) -> None:
        """Keep the gradient flow of a loss that is not trained on, such as that of a fixed batch.

        It counts as watched at the training step that comes next. Nothing is freed, and no ``.grad`` is
        touched.

        Parameters
        ----------
        loss : Tensor
            A single element, unless ``gradient`` is given.
        gradient : Tensor or array, optional
            The cotangent to start from.

        Raises
        ------
        GraphError
            ``loss`` does not require grad, no state was marked, or the graph was freed.
        ArgumentError
            The watch has ended.
        """
        with self._lock:
            if self._record.end:
                raise ArgumentError(
                    "record: this watch has ended; begin another one with tg.inspect.watch(model), "
                    "or call record before stop"
                )
            self._keep(loss, gradient)

    def _keep(self, output: Tensor, gradient: Any) -> None:
        try:
            flow = gradient_flow(output, gradient)
        except TinygradError as error:
            error.add_note(_NOTE)
            raise
        states = {
            path: {name: _norms(state) for name, state in stack.items()}
            for path, stack in flow.items()
        }
        moment = Moment(self.passes, _loss(output, gradient), states)
        self._moments.append(moment)
        self._note(moment)
        self._write(moment_line(moment))

    def _write(self, line: bytes) -> None:
        """Append to the file. Where that fails, training goes on, and what is watched stays in memory."""
        if self._file is None:
            return
        try:
            self._file.append(line)
        except OSError as error:
            _warn(
                f"watch: cannot write {self._file.target}: {error}; training and watching go on without "
                "the file. Make room, and write all of it into another one: watch.save(path)"
            )
            self._file.close()
            self._file = None

    def _still(self) -> Watched:
        """A copy of the watched steps until now. Other threads may go on training."""
        with self._lock:
            return Watched(replace(self._record, moments=list(self._moments)))

    # --- the end ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the watch: the following backward passes are as quick as if nobody had watched."""
        self._end(_STOPPED)

    def _end(self, how: str) -> None:
        with self._lock:
            if self._record.end:
                return
            self._unobserve()
            if self._last is not None:
                self._last.detach()
            self._record.end = how
            self._write(end_line(how))
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        said = brief(str(error))[1:-1]
        self._end(
            _STOPPED if kind is None else f"{kind.__name__}: {said}" if said else kind.__name__
        )


_STOPPED = "it was stopped"
_GONE = "its process ended, or its model is gone"
_NOTE = "tg.inspect.watch was looking at this loss; watch.stop() lets training go on without it"


def _warn(message: str) -> None:
    """Warn at the line of the user's code that is running."""
    warnings.warn_explicit(message, UserWarning, *user_place())


def _opened(path: str | Path, record: Record, step: int) -> Appended:
    if step:
        return Appended.continued("watch", path, record, step)
    return Appended.begun("watch", path, record)


def _takes_part(model: Module, output: Tensor) -> bool:
    """Whether a parameter of the model is in the graph of a loss.

    The search begins at the newest operations and at each node's last input, so it finds weights soon,
    before the past of a loop.
    """
    wanted = {p._node for p in model.parameters()}
    root: Any = output._node
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node in wanted:
            return True
        for x in node.inputs or ():
            if x not in seen and isinstance(x, Node):
                seen.add(x)
                stack.append(x)
    return False


def _loss(output: Tensor, gradient: Any) -> float:
    """The loss; for several elements, their sum weighted by the cotangent."""
    values = output.detach().numpy().astype(np.float64)
    if gradient is not None:
        values = values * np.asarray(gradient.numpy() if isinstance(gradient, Tensor) else gradient)
    with np.errstate(all="ignore"):
        return float(values.sum())


def _norms(state: Any) -> Norms:
    return Norms(state.time, state.log10_grad_norm, log10(state.value_norm))


def watch(
    model: Module, every: int | None = 10, path: str | Path | None = None, *, step: int = 0
) -> Watch:
    """Watch how gradients flow through a model while it is trained.

    The training loop stays as it is: the watch notices ``loss.backward()``. Before every N-th backward pass
    of a loss of the model, it records the norms of :func:`gradient_flow` for every state over time. The
    pass itself is not changed, so training gives the same bits with a watch and without. With ``every=10``,
    training takes up to 9% longer.

    Parameters
    ----------
    model : Module
        The watch does not keep it alive. Recurrent layers mark their states; your own loop does so with
        :func:`mark`. States of other models in the same graph are watched too.
    every : int or None
        Backward passes from one that is watched to the next; the first is watched. Where gradients are
        accumulated over several losses, each pass counts. None: only losses that are handed to
        ``watch.record(loss)`` are kept.
    path : str or Path, optional
        Also append to this file, a line of JSON for each watched step. It can be read while training goes
        on, and after the process was killed, with :func:`load_watch` or ``python -m tinygrad182 watch
        PATH``. Logarithms have 6 decimals there. Where the file cannot be written any more, there is a
        warning, and training goes on.
    step : int
        The number of training steps before, for training that goes on from a checkpoint. Above 0,
        the file is continued, without what it has of this training step and later ones.

    Returns
    -------
    Watch
        Path → state → norms ``(S, T)``, training step × time. It ends with ``.stop()``, with the block of
        ``with tg.inspect.watch(model) as watch:``, or with the model; without a file, also when nobody
        holds it any more.

    Raises
    ------
    DTypeError
        ``model`` is not a Module.
    ArgumentError
        ``every`` or ``step`` is not a whole number from 1, or from 0.
    FileError
        The file is there already and ``step`` is 0, is that of another model, is being written by another
        watch, or cannot be written.

    A backward pass raises GraphError where no state was marked in the graph of the first loss that is
    watched. Where that happens later, as with a penalty on weights that has a backward pass of its own,
    there is a warning, and training goes on.

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> model = tg.nn.RNN(1, 8, rng=0)
    >>> optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
    >>> watch = tg.inspect.watch(model, every=10)
    >>> for _ in range(30):
    ...     output, _ = model(tg.ones((20, 4, 1)))
    ...     loss = (output[-1] ** 2).mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> watch.stop()
    >>> watch.steps
    array([ 0, 10, 20])
    >>> watch["rnn.l0"].h.log10_grad_norm.shape  # training step × time
    (3, 20)
    >>> watch.save_html("watch.html")  # doctest: +SKIP
    """
    if not isinstance(model, Module):
        raise DTypeError(
            f"watch: {brief(model)} is a {type(model).__name__}, not a Module; put the parameters of your "
            "model into a class that inherits from tg.nn.Module"
        )
    every = None if every is None else check_whole("watch", "every", every, 1)
    return Watch(model, every, path, check_whole("watch", "step", step, 0))
