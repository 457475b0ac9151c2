"""char-lm: a language model of characters learns a text, and searches tell what it would say.

An LSTM learns the Python language reference, or your own text, a character at a time. Greedy decoding,
beam searches with their certificates, an exact search and samples then show what it learned. An RNN and a
GRU learn the same text, and the three show which characters their predictions depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from experiments.app.catalogue import Experiment
from experiments.app.errors import OptionError
from experiments.app.options import Options
from experiments.app.result import Attachment, Claim, Result
from experiments.drawing.tables import Row
from experiments.drawing.words import printable
from experiments.questions.char_lm import figures, saliency_figures, words
from experiments.questions.char_lm.continuations import (
    GREEDY,
    Continuation,
    beam,
    long_samples,
    sample,
)
from experiments.questions.char_lm.figures import loss_rows
from experiments.questions.char_lm.learner import History
from experiments.questions.char_lm.measure import (
    by_cell,
    compared,
    decoded,
    learned,
    prepared,
    train,
    word_shares,
)
from experiments.questions.char_lm.ngrams import ngram_losses
from experiments.questions.char_lm.saliency import BACK, Saliency, passage, saliency_of
from experiments.questions.char_lm.text import corpus
from experiments.questions.char_lm.words import over, written

LONGEST = 8
"""Characters n of the longest n-gram model."""

SAMPLE_LENGTH = 500
"""Characters in each of the longer samples, whose words are looked up."""

SAMPLES = 8
"""Longer samples from each prompt."""

WORDS_LEARNED = 0.9
"""The share of the way from letters drawn at random to the text itself."""

FARTHER = 1.0
"""Decades by which an LSTM or a GRU keeps more of the gradient far back than an RNN does."""

ROUNDING = 1e-5
"""The rounding of one character's log-probability: about 100 roundings of float32."""


@dataclass(frozen=True, kw_only=True)
class CharLMOptions(Options):
    """Options of char-lm."""

    data: Path | None = None
    """A text to learn (UTF-8). By default the language reference in Python's standard library."""

    resume: Path | None = None
    """Checkpoint to go on from, with its sizes. Training that goes on gives the same bits as training that
    never stopped. If the checkpoint has --steps or more behind it, its model is decoded as it is."""

    checkpoint: Path | None = None
    """File to save into at every measured moment of training, for --resume. The finished model is in the
    run's folder in any case."""

    hidden_size: int = 128
    """Hidden units H of each layer."""

    embedding: int = 32
    """Elements of a character's vector."""

    layers: int = 1
    """LSTM layers, one above the other."""

    batch: int = 64
    """Sequences B that are read side by side."""

    window: int = 48
    """Characters T in a window, which gradients flow back through; states go on from window to window."""

    steps: int = 1600
    """Training steps, each a window of every sequence."""

    learning_rate: float = 0.01
    """Step size of Adam at the beginning; it falls linearly to 0."""

    moments: int = 20
    """Most moments of training at which the held-out loss and the gradient flow are measured."""

    prompt: tuple[str, ...] = ()
    """Beginnings to go on from. By default three are taken from the held-out text."""

    characters: int = 40
    """Characters to add to each beginning."""

    beam_width: tuple[int, ...] = (2, 8, 32, 128)
    """Beam widths."""

    temperature: tuple[float, ...] = (0.5, 1.0)
    """Temperatures of samples: below 1 likely characters become likelier. The claim is about the first."""

    expansions: int = 100_000
    """Most prefixes that the exact search extends before it gives up; 0 leaves it out."""

    compare: bool = True
    """Train an RNN and a GRU of the same sizes too, as long as the LSTM, and show how far back each
    looks. They are trained anew with --resume."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "hidden_size", "embedding", "layers", "batch", "steps", "characters")
        self.at_least(2, "window", "moments")
        self.at_least(0, "expansions")
        self.positive("learning_rate", "temperature")
        self.at_least(1, "beam_width")
        if "" in self.prompt:
            raise OptionError("--prompt needs at least one character")

    @property
    def left(self) -> str:
        """A sentence that says what an interrupted run has left."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return super().left
        return f"No report was written; --resume {printable(self.checkpoint)} goes on with the training."


def run(opts: CharLMOptions, progress: Progress) -> Result:
    """Train the model, or go on with one; decode the prompts and measure its words."""
    source = corpus(opts.data)
    learner, opts = prepared(opts, source)
    stopped = train(learner, opts, progress, opts.checkpoint)
    model, history = learner.model, learner.history
    others, trouble = compared(learner, source, opts, progress)
    looked = [saliency_of(each.model, source) for each in by_cell(learner, *others)]
    found = decoded(model, source, opts, progress)
    samples = long_samples(model, opts, length=SAMPLE_LENGTH, count=SAMPLES, progress=progress)
    texts = written(found, samples)
    task = progress.add_task("n-grams", total=1)
    counting = ngram_losses(
        model.encode(source.training),
        model.encode(source.held_out),
        len(model.vocabulary),
        LONGEST,
    )
    progress.advance(task)
    shares = word_shares(source, samples, opts.seed)
    losses = loss_rows(counting, by_cell(learner, *others))
    size = f"{source.name}; H = {opts.hidden_size}, B = {opts.batch}, T = {opts.window}, seed {opts.seed}"
    return Result(
        options=opts,
        headline=words.headline(source, history, counting),
        reading=(*words.sentences(history, found, stopped), *trouble, *words.looking_back(looked)),
        claims=(*claims(history, counting, found, shares, opts), *farther(looked)),
        figures=(
            *figures.figures(history, counting, found, opts.characters, size),
            *saliency_figures.figures(looked, passage(source), model.vocabulary, size),
        ),
        tables=(
            *figures.tables(history, found, samples, losses, shares),
            *saliency_figures.tables(looked),
        ),
        attachments=(
            Attachment("model.safetensors", "The model, for --resume", learner.save),
            Attachment(
                "samples.txt",
                "Continuations and longer samples in full",
                lambda path: path.write_text(texts, encoding="utf-8"),
            ),
        ),
    )


def claims(
    history: History,
    counting: Sequence[float],
    found: Sequence[Continuation],
    shares: Sequence[Row],
    opts: CharLMOptions,
) -> tuple[Claim, ...]:
    """Claims on what the model learned, and on the searches' bounds."""
    best: dict[str, float] = {}
    for each in found:
        best[each.prompt] = max(each.log_probability, best.get(each.prompt, -np.inf))
    by_method = {(each.prompt, each.method): each.log_probability for each in found}
    widest = beam(max(opts.beam_width))
    slack = ROUNDING * opts.characters
    return (
        Claim(
            "The model knows more about the next character than any model that counts",
            over(history.held_out[-1], min(counting)),
            1.0,
            how=f"Its held-out loss over the smallest of the n-gram models', n = 1 … {len(counting)}",
            why="An n-gram model must have seen a context to say anything about it.",
        ),
        Claim(
            f"Text sampled at temperature {opts.temperature[0]:g} is recognizably its source",
            learned(shares, sample(opts.temperature[0])),
            WORDS_LEARNED,
            "at least",
            how="Share of its words that occur in the training text, from 0 for letters at random to 1 for "
            "the held-out text",
            why="Only words of four letters or more count, since shorter ones come about by chance.",
        ),
        Claim(
            "Step by step, with stored states, a text has the log-probability that it has as a whole",
            max(abs(each.log_probability - each.rescored) for each in found),
            slack,
            how="Largest difference between decoding with frozen weights and the model run over all of it",
            why="Both are float32: 100 roundings for each character are allowed.",
            about="computation",
        ),
        Claim(
            "No text is likelier than the bound of any search",
            max(best[each.prompt] - each.bound for each in found if each.bound is not None),
            slack,
            how="Largest excess of any text that was found or drawn",
            why="A bound below a text that exists would be a wrong proof. 100 roundings for each character "
            "are allowed.",
            about="computation",
        ),
        Claim(
            f"The widest beam ({max(opts.beam_width)}) finds a text at least as likely as the greedy one",
            min(by_method[prompt, widest] - by_method[prompt, GREEDY] for prompt in best),
            -slack,
            "at least",
            how="Least difference of the log-probabilities over the prompts",
            why="Nothing guarantees it: a beam can drop the greedy text's beginning for likelier ones.",
        ),
    )


def farther(looked: Sequence[Saliency]) -> tuple[Claim, ...]:
    """Claims on gates; there are none without an RNN beside them."""
    back = {each.cell: float(each.by_lag[BACK]) for each in looked}
    if "rnn" not in back:
        return ()
    return (
        Claim(
            "The LSTM and the GRU look farther back than the RNN",
            min(back["lstm"], back["gru"]) - back["rnn"],
            FARTHER,
            "at least",
            how=f"Decades by which more of the gradient is left {BACK} characters back, the smaller of "
            "the two (medians of many predictions)",
            why="At each step back an RNN's gradient is multiplied by $W_h$ and the slope of tanh. A "
            "gated cell has a path on which a gate alone multiplies it, which can stay near 1. The "
            "threshold is a factor of 10.",
        ),
    )


EXPERIMENT = Experiment(
    question="What does a language model of characters learn, and what is the likeliest thing it can say?",
    options=CharLMOptions,
    run=run,
)
