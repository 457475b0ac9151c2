"""A character language model while it learns: its losses, its gradient flow, its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinygrad182 as tg
from experiments.app.errors import DataError, OptionError
from experiments.drawing.numbers import Floats
from experiments.drawing.words import counted, printable
from experiments.questions.char_lm.checkpoints import check
from experiments.questions.char_lm.text import Corpus
from models import CharLM
from tinygrad182._trees import flatten, rebuild

MAX_NORM = 1.0
"""The gradient of all parameters together is scaled down to this norm, as is usual for LSTMs."""

LANES = 32
"""Sequences that the held-out text is cut into, to be measured side by side."""

WATCHED = 16
"""How many of these sequences have their gradient flow measured."""


@dataclass
class History:
    """All measurements up to now. JSON can hold them, so a checkpoint does.

    Parameters
    ----------
    losses : list of float
        Of each training step's window, nats per character.
    moments : list of int
        Training steps after which the rest was measured.
    held_out : list of float
        The held-out text's loss at each moment.
    flow : list of nested lists
        log10 of gradient norms at each moment: by loss (of every character, of the last one), state (h,
        c) and step in the window; None for a gradient that is 0.
    """

    losses: list[float] = field(default_factory=list)
    moments: list[int] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    flow: list[Any] = field(default_factory=list)

    def gradient(self) -> Floats:
        """The flow as an array (moments, losses, states, steps)."""
        return np.array(self.flow, dtype=np.float64)


class Learner:
    """A model, its optimizer, and where in the text they are.

    The text is cut into B sequences that are read side by side, a window at a time. States go on from one
    window to the next without their gradients: truncated backpropagation through time.

    Parameters
    ----------
    model : CharLM
    corpus : Corpus
    batch, window : int
        Sequences B, and characters T through which gradients flow.
    learning_rate : float
        Adam's step size at the beginning; it falls linearly to 0 at the last training step.
    """

    def __init__(
        self, model: CharLM, corpus: Corpus, batch: int, window: int, learning_rate: float
    ) -> None:
        self.model = model
        self.window = window
        self.learning_rate = learning_rate
        self.text = sequences(model.encode(corpus.training), batch, window)
        self.held_out = sequences(model.encode(corpus.held_out), LANES, window)
        self.optimizer = tg.optim.Adam(model.parameters(), lr=learning_rate)
        self.state: Any = None
        self.history = History()

    def learn(
        self,
        steps: int,
        moments: int,
        advance: Callable[[], object] = lambda: None,
        save: Callable[[], object] = lambda: None,
    ) -> str:
        """Train until ``steps`` windows have been learned from, measuring at some moments on the way.

        Parameters
        ----------
        steps : int
            Counted from the first ever, so a model from a checkpoint has fewer to go.
        moments : int
            At how many of them, at most, the held-out loss and the gradient flow are measured: more often
            in the beginning, when they change most.
        advance, save : callable
            Called after every step, and after every moment's measurement.

        Returns
        -------
        str
            Why it ended early; empty if it did not.
        """
        watched = set((steps * np.linspace(0, 1, moments) ** 2).astype(int).tolist())
        while True:
            done = len(self.history.losses)
            if done in watched and done not in self.history.moments:
                if not self.watch():
                    return f"the held-out loss overflowed after {counted(done, 'training step')}"
                save()
            if done >= steps:
                return ""
            if trouble := self.step(1 - done / steps):
                return f"{trouble} at training step {done}"
            advance()

    def step(self, warmth: float) -> str:
        """Learn from the next window, or return what became infinite; then nothing is learned."""
        windows = (len(self.text) - 1) // self.window
        at = len(self.history.losses) % windows * self.window
        if at == 0:
            self.state = None
        piece = self.text[at : at + self.window + 1]
        logits, state = self.model(piece[:-1], self.state)
        loss = tg.nn.cross_entropy(logits, piece[1:])
        self.optimizer.zero_grad()
        loss.backward()
        norm = tg.optim.clip_grad_norm_(
            self.optimizer.parameters, MAX_NORM, error_if_nonfinite=False
        )
        value = float(loss.item())
        if not (math.isfinite(value) and math.isfinite(norm)):
            return f"the {'gradient' if math.isfinite(value) else 'loss'} overflowed"
        self.optimizer.lr = self.learning_rate * warmth
        self.optimizer.step()
        self.state = rebuild(state, [part.detach() for part in flatten(state)])
        self.history.losses.append(value)
        return ""

    def watch(self) -> bool:
        """Measure the held-out loss and the gradient flow now; return whether the loss is finite."""
        if not math.isfinite(held_out := self.held_out_loss()):
            return False
        flow = self.flow()
        self.history.moments.append(len(self.history.losses))
        self.history.held_out.append(held_out)
        values = flow.astype(object)
        values[~np.isfinite(flow)] = None  # JSON has no infinities
        self.history.flow.append(values.tolist())
        return True

    def held_out_loss(self) -> float:
        """Nats per character of the held-out text."""
        with tg.no_grad():
            logits, _ = self.model(self.held_out[:-1])
            # With one character in the vocabulary it is −0, which would be printed.
            return 0.0 + float(tg.nn.cross_entropy(logits, self.held_out[1:]).item())

    def flow(self) -> Floats:
        """log10 ‖∂L/∂h_t‖ and ‖∂L/∂c_t‖ of the first layer, on the held-out text's beginning.

        Returns
        -------
        array (2, 2, T)
            L is the mean loss of all characters of a window, then the last one's alone; by h, then by c
            where the cell has one.
        """
        piece = self.held_out[: self.window + 1, :WATCHED]
        logits, _ = self.model(piece[:-1])
        found = []
        for first in (0, self.window - 1):
            loss = tg.nn.cross_entropy(logits[first:], piece[1 + first :])
            states = tg.inspect.gradient_flow(loss)[f"{self.model.cell}.l0"]
            names = self.model.recurrent.state
            found.append([states[name].log10_grad_norm for name in names])
        return np.array(found)

    # --- checkpoints ----------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write a checkpoint: training that goes on from it gives the same bits."""
        state = None if self.state is None else [part.numpy().tolist() for part in self.state]
        tg.save(
            path,
            self.model,
            self.optimizer,
            config=self.model.config,
            state=state,
            history=vars(self.history),
        )

    def resume(self, checkpoint: tg.Checkpoint, path: Path) -> None:
        """Go on with the training of a checkpoint, which :func:`model_of` has checked.

        Raises
        ------
        CheckpointError
            One whose arrays are not those of the model or of its optimizer.
        """
        try:
            self.model.load_state_dict(checkpoint.model)
            if checkpoint.optimizer is not None:
                self.optimizer.load_state_dict(checkpoint.optimizer)
        except tg.StateDictError as error:
            raise tg.CheckpointError(f"{printable(path)}: {error}; name another one") from error
        self.history = History(**checkpoint.meta["history"])
        if (state := checkpoint.meta["state"]) is not None:
            dtype = self.model.embedding.weight.dtype
            self.state = tuple(tg.tensor(np.array(part, dtype)) for part in state)

    def fits(self) -> None:
        """Raise unless training can go on with as many sequences and windows as long as before.

        Raises
        ------
        OptionError
            Other sizes than those of the checkpoint that was resumed.
        """
        if self.state is not None and (count := self.state[0].shape[1]) != self.text.shape[1]:
            raise OptionError(
                f"the checkpoint's training reads {count} sequences side by side, --batch and the text "
                f"make {self.text.shape[1]}; go on with --batch {count} and the same text"
            )
        if self.history.flow and (window := self.history.gradient().shape[-1]) != self.window:
            raise OptionError(
                f"the checkpoint's training reads windows of {window} characters, not {self.window}; "
                f"go on with --window {window}"
            )


def model_of(checkpoint: tg.Checkpoint, path: Path) -> CharLM:
    """A model of a checkpoint's shape.

    Raises
    ------
    DataError
        A checkpoint that :meth:`Learner.save` did not write.
    CheckpointError
        One whose facts are damaged.
    """
    check(checkpoint, path)
    return CharLM(**checkpoint.meta["config"])


def sequences(tokens: NDArray[np.int64], count: int, window: int) -> tg.Tensor:
    """Tokens as sequences side by side ``(T, count)``; fewer where a text is short."""
    count = max(1, min(count, len(tokens) // (window + 1)))
    length = len(tokens) // count
    if length < window + 1:
        raise DataError(
            f"a text of {len(tokens):,} characters is too short for windows of {window}; "
            "lower --window or name a longer text"
        )
    return tg.tensor(tokens[: count * length].reshape(count, length).T.copy())
