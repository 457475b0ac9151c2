"""A character language model while it learns: its losses, its gradient flow, its checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

import tinygrad182 as tg
from experiments.app.errors import DataError, OptionError
from experiments.drawing.numbers import Floats
from experiments.drawing.tables import Row
from experiments.drawing.words import printable
from experiments.questions.char_lm.checkpoints import check
from experiments.questions.char_lm.continuations import Continuation, Sample, continuations, sample
from experiments.questions.char_lm.text import Corpus, beginnings, known_share, words_of
from models import CharLM
from models.char_lm import CELLS
from tinygrad182._trees import flatten, rebuild

if TYPE_CHECKING:
    from experiments.questions.char_lm import CharLMOptions

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
                    return f"the held-out loss overflowed after training step {done}"
                save()
            if done >= steps:
                return ""
            if trouble := self.step(1 - done / steps):
                return f"{trouble} at training step {done + 1}"
            advance()

    def step(self, warmth: float) -> str:
        """Learn from the next window; what became infinite, if anything did: then nothing is learned."""
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
        """Measure the held-out loss and the gradient flow now; whether the loss is a number."""
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
            # Of one character alone it is −0, which would be printed.
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
        """Go on where the training of a checkpoint at a path was, which :func:`model_of` has looked at.

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
        """Raise unless training can go on: with as many sequences, in windows as long, as before.

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
    """Tokens as sequences side by side ``(T, count)``: fewer for a text too short for a window in each."""
    count = max(1, min(count, len(tokens) // (window + 1)))
    length = len(tokens) // count
    if length < window + 1:
        raise DataError(
            f"a text of {len(tokens):,} characters is too short for windows of {window}; "
            "lower --window or name a longer text"
        )
    return tg.tensor(tokens[: count * length].reshape(count, length).T.copy())


def prepared(opts: CharLMOptions, source: Corpus) -> tuple[Learner, CharLMOptions]:
    """The model to train, new or from a checkpoint, and the options as they then are."""
    path = opts.resume
    checkpoint = None if path is None else tg.load(path)
    if checkpoint is None or path is None:
        model = CharLM(
            source.vocabulary, opts.hidden_size, opts.embedding, opts.layers, rng=opts.seed
        )
    else:
        model = model_of(checkpoint, path)
    learner = Learner(model, source, opts.batch, opts.window, opts.learning_rate)
    if checkpoint is not None and path is not None:
        learner.resume(checkpoint, path)
        if len(learner.history.losses) < opts.steps:
            learner.fits()
    for prompt in opts.prompt:
        model.encode(prompt)  # before an hour of training, not after
    return learner, dataclasses.replace(
        opts,
        hidden_size=model.recurrent.hidden_size,
        embedding=model.embedding.embedding_dim,
        layers=model.recurrent.num_layers,
        prompt=opts.prompt or beginnings(source.held_out, 3),
    )


def train(
    learner: Learner, opts: CharLMOptions, progress: Progress, checkpoint: Path | None = None
) -> str:
    """Train with a progress bar; why it ended early, if it did."""
    name = f"training the {learner.model.cell.upper()}"
    bar = progress.add_task(name, total=opts.steps, completed=len(learner.history.losses))

    def advance() -> None:
        held_out = learner.history.held_out[-1]
        progress.update(bar, advance=1, description=f"{name}: {held_out:.2f} nats per character")

    def save() -> None:
        if checkpoint is not None:
            learner.save(checkpoint)

    return learner.learn(opts.steps, opts.moments, advance, save)


def compared(
    lstm: Learner, source: Corpus, opts: CharLMOptions, progress: Progress
) -> tuple[list[Learner], list[str]]:
    """Train an RNN and a GRU of an LSTM's sizes for as many steps, if they are asked for.

    Returns
    -------
    learners : list of Learner
    trouble : list of str
        A sentence about each whose training ended early.
    """
    opts = dataclasses.replace(opts, steps=max(1, len(lstm.history.losses)), moments=2)
    found, trouble = [], []
    for cell in COMPARED if opts.compare else ():
        model = CharLM(**{**lstm.model.config, "cell": cell}, rng=opts.seed)
        learner = Learner(model, source, opts.batch, opts.window, opts.learning_rate)
        if stopped := train(learner, opts, progress):
            trouble.append(f"The training of the {cell.upper()} ended early: {stopped}.")
        found.append(learner)
    return found, trouble


def by_cell(*learners: Learner) -> list[Learner]:
    """Learners in the order in which people compare them: RNN, LSTM, GRU."""
    return sorted(learners, key=lambda learner: list(CELLS).index(learner.model.cell))


LETTERS, TEXT = "letters at random", "held-out text"


COMPARED = ("rnn", "gru")
"""Cells that learn the text beside the LSTM."""


def decoded(
    model: CharLM, source: Corpus, opts: CharLMOptions, progress: Progress
) -> list[Continuation]:
    """Continuations of every prompt by every method."""
    found = []
    for prompt in progress.track(opts.prompt, description="decoding"):
        found += continuations(
            model,
            prompt,
            length=opts.characters,
            beams=sorted(set(opts.beam_width)),
            temperatures=opts.temperature,
            expansions=opts.expansions,
            seed=opts.seed,
            itself=source.after(prompt, opts.characters),
        )
    return found


def word_shares(source: Corpus, samples: Sequence[Sample], seed: int) -> list[Row]:
    """Shares of known words: of letters drawn one by one, of samples, and of the held-out text."""
    known = set(words_of(source.training))
    rng = np.random.default_rng((seed, 1))
    texts = {LETTERS: "".join(rng.choice(list(source.training), len(source.held_out)))}
    for each in samples:
        # The end of a sample can be half a word.
        whole = each.text.rpartition(" ")[0]
        name = sample(each.temperature)
        texts[name] = f"{texts.get(name, '')}\n{whole}"
    texts[TEXT] = source.held_out
    return [{"source": name, "known": known_share(text, known)} for name, text in texts.items()]


def learned(rows: Sequence[Row], name: str) -> float:
    """How far the words of a sample are on the way from letters at random, 0, to the text, 1."""
    shares = {str(row["source"]): float(row["known"] or 0) for row in rows}
    way = shares[TEXT] - shares[LETTERS]
    return (shares[name] - shares[LETTERS]) / way if way else math.nan
