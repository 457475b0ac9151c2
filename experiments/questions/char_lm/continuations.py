"""Texts that go on from a prompt: found by each search, checked against the recorded model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

import tinygrad182 as tg
from experiments.drawing.numbers import to_numpy
from models import CharLM

if TYPE_CHECKING:
    from experiments.questions.char_lm import CharLMOptions

GREEDY, EXACT, ITSELF = "greedy", "exact search", "the text itself"


@dataclass(frozen=True)
class Continuation:
    """The continuation of a prompt by one method.

    Parameters
    ----------
    prompt, method, text : str
        The text does not repeat the prompt.
    log_probability : float
        Of the text after the prompt, as the search added it up.
    rescored : float
        The same from the recorded model, run over prompt and text at once.
    bound : float or None
        No text of this length is likelier; None for what no search found.
    """

    prompt: str
    method: str
    text: str
    log_probability: float
    rescored: float
    bound: float | None

    @property
    def gap(self) -> float | None:
        """The most that the search can have missed; 0 proves that this is the likeliest text."""
        return None if self.bound is None else self.bound - self.log_probability

    @property
    def certified(self) -> bool | None:
        """Whether the text is proven to be the likeliest of its length."""
        return None if self.bound is None else self.gap == 0.0


def beam(width: int) -> str:
    """Name of a beam search."""
    return f"beam {width}"


def sample(temperature: float) -> str:
    """Name of a sample."""
    return f"sample, temperature {temperature:g}"


def continuations(
    model: CharLM, prompt: str, opts: CharLMOptions, itself: str = ""
) -> list[Continuation]:
    """Go on from a prompt with every method; ``itself`` is how the text itself goes on."""
    step = model.frozen_step()
    place = (step, *read(step, model, prompt))
    length, widths = opts.characters, sorted(set(opts.beam_width))
    found: dict[str, Any] = {GREEDY: tg.decode.greedy(*place, length, state_axis=1)}
    for width in widths:
        found[beam(width)] = tg.decode.beam_search(*place, width, length, state_axis=1)
    if opts.expansions:
        found[EXACT] = tg.decode.exact_search(
            *place, length, state_axis=1, beam_width=widths[-1], max_expansions=opts.expansions
        )
    for temperature in opts.temperature:
        found[sample(temperature)] = tg.decode.sample(
            *place, length, state_axis=1, temperature=temperature, rng=opts.seed
        )
    texts = {method: model.decode(result.tokens) for method, result in found.items()}
    if itself:
        texts[ITSELF] = itself
    rescored = log_probabilities(model, prompt, list(texts.values()))
    return [
        Continuation(
            prompt,
            method,
            text,
            found[method].log_probability if method in found else again,
            again,
            getattr(found.get(method), "bound", None),
        )
        for (method, text), again in zip(texts.items(), rescored, strict=True)
    ]


def read(step: Any, model: CharLM, prompt: str) -> tuple[Any, int]:
    """The state before a prompt's last character, and that character's token."""
    tokens, state = model.encode(prompt), None
    for k in range(len(tokens) - 1):
        _, state = step(tokens[k : k + 1], state)
    return state, int(tokens[-1])


def log_probabilities(model: CharLM, prompt: str, texts: Sequence[str]) -> list[float]:
    """Log-probability of each text of one length after a prompt: the model run over both at once."""
    tokens = np.stack([model.encode(prompt + text) for text in texts], axis=1)
    first = len(prompt)
    with tg.no_grad():
        logits, _ = model(tokens[:-1])
        values = to_numpy(tg.log_softmax(logits[first - 1 :]))
    chosen = np.take_along_axis(values, tokens[first:, :, None], axis=2)
    found: list[float] = chosen.astype(np.float64).sum(axis=(0, 2)).tolist()
    return found


@dataclass(frozen=True)
class Sample:
    """A longer text drawn from the model."""

    prompt: str
    temperature: float
    text: str


def long_samples(
    model: CharLM, opts: CharLMOptions, *, length: int, count: int, progress: Progress
) -> list[Sample]:
    """Draw ``count`` texts from each prompt at each temperature."""
    step = model.frozen_step()
    drawn: list[Sample] = []
    places = list(itertools.product(opts.temperature, opts.prompt))
    for temperature, prompt in progress.track(places, description="samples"):
        found: Any = tg.decode.sample(
            step,
            *read(step, model, prompt),
            length,
            state_axis=1,
            temperature=temperature,
            count=count,
            rng=opts.seed,
        )
        texts = (model.decode(hypothesis.tokens) for hypothesis in found)
        drawn += [Sample(prompt, temperature, text) for text in texts]
    return drawn
