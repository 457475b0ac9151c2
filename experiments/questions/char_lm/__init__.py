"""char-lm: a language model of characters learns a text, and searches tell what it would say.

An LSTM learns the Python language reference, or a person's own text, a character at a time. What it
learned is then read off by greedy decoding, beam searches with their certificates, an exact search and
samples. An RNN and a GRU learn the same text, and the three show which characters their predictions
depend on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

import tinygrad182 as tg
from experiments.app import options
from experiments.app.catalogue import Experiment
from experiments.app.result import Attachment, Claim, Result
from experiments.drawing.tables import Row, power_text
from experiments.drawing.words import printable
from experiments.questions.char_lm import figures as text_views
from experiments.questions.char_lm import saliency_figures as saliency_views
from experiments.questions.char_lm.continuations import (
    GREEDY,
    ITSELF,
    Continuation,
    Sample,
    beam,
    continuations,
    long_samples,
    sample,
)
from experiments.questions.char_lm.measure import History, Learner, model_of
from experiments.questions.char_lm.ngrams import ngram_losses
from experiments.questions.char_lm.saliency import BACK, Saliency, passage, saliency
from experiments.questions.char_lm.text import (
    Corpus,
    beginnings,
    corpus,
    known_share,
    shown,
    words_of,
)
from models import CharLM
from models.char_lm import CELLS

LONGEST = 8
"""Characters n in the longest of the n-gram models."""

SAMPLE_LENGTH = 500
"""Characters in each of the longer samples, whose words are looked up."""

SAMPLES = 8
"""Longer samples from each prompt."""

WORDS_LEARNED = 0.9
"""The way from letters drawn at random to the text itself that a model's words must have come."""

LETTERS, TEXT = "letters at random", "held-out text"

COMPARED = ("rnn", "gru")
"""Cells that learn the text beside the LSTM."""

FARTHER = 1.0
"""Decades by which an LSTM or a GRU keeps more of the gradient far back than an RNN does."""

ROUNDING = 1e-5
"""The rounding of one character's log-probability: about 100 roundings of float32."""


@dataclass(frozen=True, kw_only=True)
class CharLMOptions(options.Options):
    """Options of char-lm."""

    data: Path | None = None
    """A text to learn (UTF-8). By default the language reference in Python's standard library."""

    resume: Path | None = None
    """Checkpoint to go on from, with its sizes: training that goes on gives the same bits as training
    that never stopped. With no more --steps than it has, its model is decoded as it is."""

    checkpoint: Path | None = None
    """File to save into at every measured moment of training, for --resume. The finished model is in
    the run's folder in any case."""

    hidden_size: int = 128
    """Hidden units H of each layer."""

    embedding: int = 32
    """Elements of a character's vector."""

    layers: int = 1
    """LSTM layers above each other."""

    batch: int = 64
    """Sequences B that are read side by side."""

    window: int = 48
    """Characters T that gradients flow back through; states go on from window to window."""

    steps: int = 1600
    """Training steps, each a window of every sequence."""

    learning_rate: float = 0.01
    """Step size of Adam at the beginning; it falls linearly to 0."""

    moments: int = 20
    """Moments of training, at most, at which the held-out loss and the gradient flow are measured."""

    prompts: tuple[str, ...] = ()
    """Beginnings to go on from. By default three are taken from the held-out text."""

    length: int = 40
    """Characters to go on by."""

    beams: tuple[int, ...] = (2, 8, 32, 128)
    """Beam widths."""

    temperatures: tuple[float, ...] = (0.5, 1.0)
    """Temperatures of samples: below 1 likely characters become likelier. The claim is about the first."""

    expansions: int = 100_000
    """Prefixes that the exact search may extend before it gives up; 0 leaves it out."""

    compare: bool = True
    """Train an RNN and a GRU of the same sizes too, as long as the LSTM, and show how far back each
    looks. They are trained anew with --resume."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden_size", "embedding", "layers", "batch", "steps", "length"):
            options.at_least(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("window", "moments"):
            options.at_least(name, getattr(self, name), 2)
        options.at_least("expansions", self.expansions, 0)
        options.positive("learning-rate", self.learning_rate)
        options.positive("temperatures", *self.temperatures)
        options.one_or_more("beams", self.beams)
        for width in self.beams:
            options.at_least("beams", width, 1)
        for prompt in self.prompts:
            options.one_or_more("prompts", prompt)

    @property
    def left(self) -> str:
        """What a run that was interrupted has left, in a sentence."""
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
    looked = [saliency(each.model, source) for each in by_cell(learner, *others)]
    found = decoded(model, source, opts, progress)
    samples = long_samples(
        model,
        opts.prompts,
        opts.temperatures,
        length=SAMPLE_LENGTH,
        count=SAMPLES,
        seed=opts.seed,
        progress=progress,
    )
    texts = written(found, samples)
    task = progress.add_task("n-grams", total=1)
    counting = ngram_losses(
        model.encode(source.training),
        model.encode(source.held_out),
        len(model.vocabulary),
        LONGEST,
    )
    progress.advance(task)
    words = word_shares(source, samples, opts.seed)
    losses = unknown(counting, by_cell(learner, *others))
    size = f"{source.name}; H = {opts.hidden_size}, B = {opts.batch}, T = {opts.window}, seed {opts.seed}"
    return Result(
        options=opts,
        headline=headline(source, history, counting),
        reading=(*sentences(history, found, stopped), *trouble, *looking_back(looked)),
        claims=(*claims(history, counting, found, words, opts), *farther(looked)),
        figures=(
            *text_views.figures(history, counting, found, opts.length, size),
            *saliency_views.figures(looked, passage(source), model.vocabulary, size),
        ),
        tables=(
            *text_views.tables(history, found, samples, losses, words),
            *saliency_views.tables(looked),
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
    for prompt in opts.prompts:
        model.encode(prompt)  # before an hour of training, not after
    return learner, dataclasses.replace(
        opts,
        hidden_size=model.recurrent.hidden_size,
        embedding=model.embedding.embedding_dim,
        layers=model.recurrent.num_layers,
        prompts=opts.prompts or beginnings(source.held_out, 3),
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


def decoded(
    model: CharLM, source: Corpus, opts: CharLMOptions, progress: Progress
) -> list[Continuation]:
    """What every method makes of every prompt."""
    found = []
    for prompt in progress.track(opts.prompts, description="decoding"):
        found += continuations(
            model,
            prompt,
            length=opts.length,
            beams=sorted(set(opts.beams)),
            temperatures=opts.temperatures,
            expansions=opts.expansions,
            seed=opts.seed,
            itself=source.after(prompt, opts.length),
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


def learned(words: Sequence[Row], name: str) -> float:
    """How far the words of a sample are on the way from letters at random, 0, to the text, 1."""
    shares = {str(row["source"]): float(row["known"] or 0) for row in words}
    way = shares[TEXT] - shares[LETTERS]
    return (shares[name] - shares[LETTERS]) / way if way else math.nan


def unknown(counting: Sequence[float], learners: Sequence[Learner]) -> list[Row]:
    """Rows of the models' losses on the held-out text."""
    losses = {f"{n}-gram": loss for n, loss in enumerate(counting, start=1)}
    losses |= {each.model.cell.upper(): each.history.held_out[-1] for each in learners}
    return [
        {"model": name, "loss": loss, "perplexity": float(np.exp(loss))}
        for name, loss in losses.items()
    ]


def claims(
    history: History,
    counting: Sequence[float],
    found: Sequence[Continuation],
    words: Sequence[Row],
    opts: CharLMOptions,
) -> tuple[Claim, ...]:
    """What it learned, and that searches mean what they say."""
    best: dict[str, float] = {}
    for each in found:
        best[each.prompt] = max(each.log_probability, best.get(each.prompt, -np.inf))
    by_method = {(each.prompt, each.method): each.log_probability for each in found}
    widest = beam(max(opts.beams))
    slack = ROUNDING * opts.length
    return (
        Claim(
            f"The model knows more about the next character of the held-out text than any n-gram model, "
            f"n = 1 … {len(counting)} (its loss over the smallest of theirs)",
            over(history.held_out[-1], min(counting)),
            1.0,
            why="An n-gram model counts; it needs to have seen a context to say anything about it.",
        ),
        Claim(
            f"Text sampled at temperature {opts.temperatures[0]:g} is recognizably its source: its words "
            "occur in the training text as those of the held-out text do (share of the way there from "
            "letters at random)",
            learned(words, sample(opts.temperatures[0])),
            WORDS_LEARNED,
            "at least",
            why="Counted are words of four letters or more that occur in the training text.",
        ),
        Claim(
            "Decoding with frozen weights and stored states gives each text the log-probability that the "
            "model gives it when it runs over all of it (largest difference)",
            max(abs(each.log_probability - each.rescored) for each in found),
            slack,
            why="Both are float32: 100 roundings for each character are allowed.",
        ),
        Claim(
            "No search found, and no sample is, a text likelier than the bound of any search's "
            "certificate (largest excess)",
            max(best[each.prompt] - each.bound for each in found if each.bound is not None),
            slack,
            why="A bound below a text that exists would be a wrong proof. The same rounding is allowed.",
        ),
        Claim(
            f"The widest beam ({max(opts.beams)}) finds a text at least as likely as greedy decoding does, "
            "for every prompt (least difference)",
            min(by_method[prompt, widest] - by_method[prompt, GREEDY] for prompt in best),
            -slack,
            "at least",
            why="Nothing guarantees it: a beam can drop the greedy text's beginning for likelier ones.",
        ),
    )


def farther(looked: Sequence[Saliency]) -> tuple[Claim, ...]:
    """What gates are for; nothing is claimed where there is no RNN beside them."""
    back = {each.cell: float(each.by_lag[BACK]) for each in looked}
    if "rnn" not in back:
        return ()
    return (
        Claim(
            f"The LSTM and the GRU look farther back than the RNN: of ‖∂L/∂x‖ at the last character, "
            f"more is left {BACK} characters before it (median of many predictions; decades more, the "
            "smaller of the two)",
            min(back["lstm"], back["gru"]) - back["rnn"],
            FARTHER,
            "at least",
            why="On the way back an RNN's gradient is multiplied by W_h and the slope of tanh at each "
            "step. A gated cell has a path on which it is multiplied by a gate alone, which can stay near "
            "1. The threshold is a factor of 10.",
        ),
    )


def looking_back(looked: Sequence[Saliency]) -> tuple[str, ...]:
    """How far back each model looks, in a sentence."""
    left = [f"{power_text(float(each.by_lag[BACK]))} in the {each.name}" for each in looked]
    why = (
        "An RNN multiplies the gradient by W_h at each step back; a gated cell has a path on which only a "
        "gate multiplies it"
        if len(looked) > 1
        else "How far back a prediction looks is how much of its gradient is left there"
    )
    return (
        f"{why}. Of ‖∂L/∂x‖ at the last character that was read, {', '.join(left)} is left {BACK} "
        "characters before it (median of many predictions).",
    )


def over(loss: float, least: float) -> float:
    """How many times another loss a loss is; infinite where only the other is 0, 1 where both are.

    >>> over(1.0, 2.0), over(1.0, 0.0), over(0.0, 0.0)
    (0.5, inf, 1.0)
    """
    if least > 0:
        return loss / least
    return math.inf if loss > 0 else 1.0


def reach(history: History, moment: int) -> float:
    """log10(‖∂L/∂h_1‖ / ‖∂L/∂h_T‖) at a moment, for the loss of a window's last character."""
    norms = history.gradient()[moment, 1, 0]
    return float(norms[0] - norms[-1])


def headline(source: Corpus, history: History, counting: Sequence[float]) -> str:
    """What is known about the text now."""
    return (
        f"After {len(history.losses)} training steps on {source.name} the model leaves "
        f"{history.held_out[-1]:.2f} nats of a held-out character unknown. Counting what follows one "
        f"character leaves {counting[1]:.2f}; what follows {counting.index(min(counting))}, the best "
        f"number, {min(counting):.2f}."
    )


def sentences(history: History, found: Sequence[Continuation], stopped: str) -> tuple[str, ...]:
    """Gradients and searches in numbers."""
    said = [
        "The loss of a window's last character, on its way back to the first, ‖∂L/∂h_1‖ / ‖∂L/∂h_T‖: "
        f"{power_text(reach(history, 0))} before training, {power_text(reach(history, -1))} after.",
    ]
    for prompt in dict.fromkeys(each.prompt for each in found):
        said += about([each for each in found if each.prompt == prompt])
    if stopped:
        said.append(f"Training ended early: {stopped}.")
    return tuple(said)


def about(found: Sequence[Continuation]) -> list[str]:
    """The likeliest text after one prompt, how sure that is, and what a person wrote there."""
    best = max(found, key=lambda each: each.log_probability)
    proven = [each.method for each in found if each.certified]
    least = min(each.bound for each in found if each.bound is not None)
    how_sure = (
        f"proven to be the likeliest of all ({', '.join(proven)})"
        if proven
        else f"no text is likelier by more than {least - best.log_probability:.2f}"
    )
    said = (
        f"After “{shown(best.prompt)}” the likeliest text found is “{shown(best.text)}”, "
        f"log-probability {best.log_probability:.2f}: {how_sure}."
    )
    itself = [each for each in found if each.method == ITSELF]
    if itself:
        said += (
            f" What the text itself says, “{shown(itself[0].text)}”, has "
            f"{itself[0].log_probability:.2f}: the likeliest text is not one that people write."
            * (itself[0].log_probability < best.log_probability)
        )
    return [said]


def written(found: Sequence[Continuation], samples: Sequence[Sample]) -> str:
    """Every text in full, as a file people read."""
    parts = [
        f"=== {each.method}, log-probability {each.log_probability:.3f}\n{each.prompt}|{each.text}"
        for each in found
    ]
    parts += [f"=== {sample(each.temperature)}\n{each.prompt}|{each.text}" for each in samples]
    return "\n\n".join(parts) + "\n"


EXPERIMENT = Experiment(
    question="What does a language model of characters learn, and what is the likeliest thing it can say?",
    options=CharLMOptions,
    run=run,
)
