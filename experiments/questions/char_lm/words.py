"""Sentences on what the model has learned and what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.drawing.tables import power_text
from experiments.drawing.words import counted, literal
from experiments.questions.char_lm.continuations import ITSELF, Continuation, Sample, sample
from experiments.questions.char_lm.learner import History
from experiments.questions.char_lm.saliency import BACK, Saliency
from experiments.questions.char_lm.text import Corpus, quoted


def looking_back(looked: Sequence[Saliency]) -> tuple[str, ...]:
    """A sentence about the distance that each model looks back."""
    left = [f"{power_text(float(each.by_lag[BACK]))} in the {each.name}" for each in looked]
    why = (
        "An RNN multiplies the gradient by $W_h$ at each step back; a gated cell has a path on which only "
        "a gate multiplies it"
        if len(looked) > 1
        else "A prediction looks as far back as its gradient reaches"
    )
    return (
        f"{why}. The gradient {BACK} characters back, in units of that at the last character that was "
        f"read, is {', '.join(left)} (median of many predictions).",
    )


def over(loss: float, least: float) -> float:
    """Ratio of a loss to another one; infinite where only the other is 0, 1 where both are.

    >>> over(1.0, 2.0), over(1.0, 0.0), over(0.0, 0.0)
    (0.5, inf, 1.0)
    """
    if least > 0:
        return loss / least
    return math.inf if loss > 0 else 1.0


def reach(history: History, moment: int) -> float:
    """log10(‖∂L/∂h_0‖ / ‖∂L/∂h_{T−1}‖) at a moment, for the loss of a window's last character."""
    norms = history.gradient()[moment, 1, 0]
    return float(norms[0] - norms[-1])


def headline(source: Corpus, history: History, counting: Sequence[float]) -> str:
    """The reason, then the loss beside those of the n-gram models."""
    loss = history.held_out[-1]
    return (
        "The model carries what it has read along in its state; a model that counts knows only contexts "
        f"that it has seen word for word. After {counted(len(history.losses), 'training step')} on "
        f"{literal(source.name)} the model leaves {loss:.2f} nats of a held-out character unknown, a "
        f"choice among {math.exp(loss):.1f}. Counting what follows one character leaves {counting[1]:.2f} "
        f"nats; what follows {counting.index(min(counting))}, the best number, {min(counting):.2f}."
    )


def sentences(history: History, found: Sequence[Continuation], stopped: str) -> tuple[str, ...]:
    """Gradients and searches in numbers."""
    said = [
        "From a window's last character back to its first, "
        f"{power_text(reach(history, 0))} of the gradient is left before training, and "
        f"{power_text(reach(history, -1))} after.",
    ]
    for prompt in dict.fromkeys(each.prompt for each in found):
        said += about([each for each in found if each.prompt == prompt])
    if stopped:
        said.append(f"Training ended early: {stopped}.")
    return tuple(said)


def about(found: Sequence[Continuation]) -> list[str]:
    """The likeliest text after one prompt, how sure that is, and the text itself."""
    best = max(found, key=lambda each: each.log_probability)
    proven = [each.method for each in found if each.certified]
    least = min(each.bound for each in found if each.bound is not None)
    how_sure = (
        f"proven to be the likeliest of all ({', '.join(proven)})"
        if proven
        else f"no text is likelier by more than {least - best.log_probability:.2f}"
    )
    said = (
        f"After {quoted(best.prompt)} the likeliest text found is {quoted(best.text)}, "
        f"log-probability {best.log_probability:.2f}: {how_sure}."
    )
    itself = [each for each in found if each.method == ITSELF]
    if itself:
        said += (
            f" What the text itself says, {quoted(itself[0].text)}, has "
            f"{itself[0].log_probability:.2f}: the likeliest text is not one that people write."
            * (itself[0].log_probability < best.log_probability)
        )
    return [said]


def written(found: Sequence[Continuation], samples: Sequence[Sample]) -> str:
    """Every text in full, for a file."""
    parts = [
        f"=== {each.method}, log-probability {each.log_probability:.3f}\n{each.prompt}|{each.text}"
        for each in found
    ]
    parts += [f"=== {sample(each.temperature)}\n{each.prompt}|{each.text}" for each in samples]
    return "\n\n".join(parts) + "\n"
