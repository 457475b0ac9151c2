"""Train the model, decode the prompts, and count known words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress

import tinygrad182 as tg
from experiments.drawing.tables import Row
from experiments.questions.char_lm.continuations import (
    Continuation,
    Sample,
    continuations,
    sample,
)
from experiments.questions.char_lm.learner import Learner, model_of
from experiments.questions.char_lm.text import Corpus, beginnings, known_share, words_of
from models import CharLM
from models.char_lm import CELLS

if TYPE_CHECKING:
    from experiments.questions.char_lm import CharLMOptions

LETTERS, TEXT = "letters at random", "held-out text"

COMPARED = ("rnn", "gru")
"""Cells that learn the text beside the LSTM."""


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
    """Train with a progress bar; return why it ended early, or an empty text."""
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


def decoded(
    model: CharLM, source: Corpus, opts: CharLMOptions, progress: Progress
) -> list[Continuation]:
    """Continuations of every prompt by every method."""
    found = []
    for prompt in progress.track(opts.prompt, description="decoding"):
        itself = source.after(prompt, opts.characters)
        found += continuations(model, prompt, opts, itself)
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
    """Place of a sample's words between letters at random, 0, and the text, 1."""
    shares = {str(row["source"]): float(row["known"] or 0) for row in rows}
    way = shares[TEXT] - shares[LETTERS]
    return (shares[name] - shares[LETTERS]) / way if way else math.nan
