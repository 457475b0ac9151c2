"""Beam search beside Hugging Face's ``generate`` and a loop over PyTorch's cell: one thread each.

``python -m benchmarks.decoding [--out DIR]``

The same LSTM language model everywhere, with the same weights, in float32, and sequences of a fixed
length. ``generate`` is given the state as its cache; the loop is what an engineer writes who needs no
library. The floor is what no search over this model can do without: the products with W_h and with the
head, and the log-sum-exps. Then how time grows with length, and what the certificate and the switch of
the lattice cost.
"""

from __future__ import annotations

import inspect
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import tyro

import tinygrad182 as tg
from benchmarks.memory import slope
from benchmarks.options import TimingOptions
from benchmarks.peers import threads
from benchmarks.timing import interleave, milliseconds, ratio, report
from models.char_lm import CharLM
from tinygrad182.decode import beam
from tinygrad182.decode.selection import best_candidates

SHAPES = ((1_000, 256, 8, 64), (10_000, 512, 10, 100), (50, 64, 5, 64))
BATCHES = (1, 8, 32)
LENGTHS = (64, 128, 256, 512, 1_024)
OURS, PLAIN, LOOP, GENERATE, FLOOR = "ours", "ours, CharLM.step", "cell loop", "generate", "floor"

Tokens = list[tuple[int, ...]]
Search = Callable[[], Tokens]
Weights = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Measure the speed of beam search beside ``generate`` and a loop over PyTorch's cells."""

    repeats: int = 40
    """Rounds that count, at most."""

    seconds: float = 60.0
    """Time for one row of a table: where it is not enough for all rounds there are fewer, at least 3."""


def language_model(vocabulary: int, hidden: int) -> CharLM:
    """A model that was not trained, but is as sure of its next token as one that was."""
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + vocabulary)))
    model = CharLM(characters, hidden, embedding_dim=hidden, rng=0)
    with tg.no_grad():
        parameters = dict(model.named_parameters())
        inputs, head = parameters["lstm.weight_ih_l0"], parameters["head.weight"]
        inputs.assign(4 * inputs)  # so that the last token matters
        head.assign(14 * head)
    return model


# --- ours -----------------------------------------------------------------------------------------


def ours(step: Any, start: list[int], width: int, length: int) -> Search:
    """Our beam search."""

    def run() -> Tokens:
        found = tg.decode.beam_search(step, None, start, width, length, state_axis=1)
        return [result.tokens for result in found]

    return run


def floor(model: CharLM, rows: int, length: int) -> Callable[[], None]:
    """The products and log-sum-exps alone."""
    recurrent = np.ascontiguousarray(model.lstm.weight_hh_l0.numpy().T)  # type: ignore[attr-defined]
    head = np.ascontiguousarray(model.head.weight.numpy().T)
    h = np.random.default_rng(0).uniform(-0.5, 0.5, (rows, len(recurrent))).astype(np.float32)
    gates = np.empty((rows, recurrent.shape[1]), np.float32)
    logits = np.empty((rows, head.shape[1]), np.float32)
    exponentials = np.empty_like(logits)

    def run() -> None:
        for _ in range(length):
            np.matmul(h, recurrent, out=gates)
            np.matmul(h, head, out=logits)
            most = logits.max(axis=1, keepdims=True)
            np.exp(np.subtract(logits, most, out=exponentials), out=exponentials)
            most + np.log(exponentials.sum(axis=1, keepdims=True))

    return run


# --- the peers ------------------------------------------------------------------------------------


def cell_loop(weights: Weights, start: list[int], width: int, length: int) -> Search:
    """Beam search over PyTorch's ``LSTMCell``."""
    import torch  # a peer: not installed for users

    embedding, cell, head = torch_parts(weights)
    first = torch.tensor(start)
    B, M = len(start), head.out_features

    def run() -> Tokens:
        with torch.inference_mode():
            return search()

    def search() -> Tokens:
        tokens = first
        h = c = torch.zeros(B, cell.hidden_size)
        scores = torch.zeros(B, 1)
        examples = torch.arange(B)[:, None]
        parents, words = [], []
        for _ in range(length):
            h, c = cell(embedding(tokens), (h, c))
            log_probs = torch.log_softmax(head(h), dim=1)
            total = scores[:, :, None] + log_probs.view(B, -1, M)
            beams = total.shape[1]
            scores, best = total.view(B, -1).topk(width, dim=1)
            parents.append(best // M)
            words.append(best % M)
            rows = (parents[-1] + examples * beams).view(-1)
            h, c = h.index_select(0, rows), c.index_select(0, rows)
            tokens = words[-1].view(-1)
        place = torch.zeros(B, 1, dtype=torch.int64)
        best_words = []
        for parent, word in zip(reversed(parents), reversed(words), strict=True):
            best_words.append(word.gather(1, place))
            place = parent.gather(1, place)
        return list(map(tuple, torch.cat(best_words[::-1], dim=1).tolist()))

    return run


def generate(weights: Weights, start: list[int], width: int, length: int) -> Search:
    """Hugging Face's ``generate``, with h and c for its cache."""
    import torch
    from transformers import (
        GenerationConfig,
        GenerationMixin,
        PretrainedConfig,
        PreTrainedModel,
    )
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class LanguageModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
        """The parts, and what ``generate`` asks of a model: nothing is prepared that an LSTM needs not."""

        config_class = PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.embedding, self.cell, self.head = torch_parts(weights)

        @classmethod
        def _supports_default_dynamic_cache(cls) -> bool:
            return False

        def prepare_inputs_for_generation(
            self, input_ids: Any, past_key_values: Any = None, **_: Any
        ) -> dict[str, Any]:
            return {"input_ids": input_ids[:, -1], "past_key_values": past_key_values}

        def forward(self, input_ids: Any, past_key_values: Any = None, **_: Any) -> Any:
            h, c = self.cell(self.embedding(input_ids), past_key_values)
            return CausalLMOutputWithPast(logits=self.head(h)[:, None], past_key_values=(h, c))

        def _reorder_cache(self, past_key_values: Any, beams: Any) -> Any:
            return tuple(part.index_select(0, beams) for part in past_key_values)

    M = len(weights["head.bias"])
    model = LanguageModel(PretrainedConfig(vocab_size=M)).eval()
    config = GenerationConfig(
        num_beams=width, max_new_tokens=length, do_sample=False, use_cache=True, length_penalty=0.0
    )
    first = torch.tensor(start)[:, None]

    def run() -> Tokens:
        with torch.inference_mode():
            found = model.generate(first, generation_config=config)
        return list(map(tuple, found[:, 1:].tolist()))

    return run


def torch_parts(weights: Weights) -> tuple[Any, Any, Any]:
    """PyTorch's embedding, cell and head with these weights."""
    import torch

    tokens, inputs = weights["embedding.weight"].shape
    hidden = weights["head.weight"].shape[1]
    embedding = torch.nn.Embedding(tokens, inputs)
    cell = torch.nn.LSTMCell(inputs, hidden)
    head = torch.nn.Linear(hidden, tokens)
    for prefix, ending, part in (
        ("embedding.", "", embedding),
        ("lstm.", "_l0", cell),
        ("head.", "", head),
    ):
        names = part.state_dict()
        part.load_state_dict({n: torch.from_numpy(weights[prefix + n + ending]) for n in names})
    return embedding, cell, head


def searches(
    model: CharLM, start: list[int], width: int, length: int
) -> dict[str, Callable[[], Any]]:
    """Searches to time at one shape and batch, by name; peers where they are installed."""
    weights = {name: np.array(value) for name, value in model.state_dict().items()}
    found: dict[str, Callable[[], Any]] = {
        OURS: ours(model.frozen_step(), start, width, length),
        PLAIN: ours(model.step, start, width, length),
        FLOOR: floor(model, len(start) * width, length),
    }
    if find_spec("torch") is not None:
        found[LOOP] = cell_loop(weights, start, width, length)
        if find_spec("transformers") is not None:
            found[GENERATE] = generate(weights, start, width, length)
    return found


# --- tables ---------------------------------------------------------------------------------------


def against_peers(options: Options) -> list[dict[str, Any]]:
    """One row per shape and batch."""
    return [
        peers_row(model, shape, batch, options)
        for shape in SHAPES
        for model in [language_model(*shape[:2])]
        for batch in BATCHES
    ]


def peers_row(
    model: CharLM, shape: tuple[int, int, int, int], batch: int, options: Options
) -> dict[str, Any]:
    """Tokens per second of everyone, how many times as fast ours is, and whether all found the same."""
    V, _, K, T = shape
    runs = searches(model, [b % V for b in range(batch)], K, T)
    begin = time.perf_counter()
    answers = {name: run() for name, run in runs.items()}
    times = interleave(runs, rounds(options, time.perf_counter() - begin), clock=options.clock)
    speed = {
        f"{name}, tokens/s": batch * T / statistics.median(times[name]) if name in runs else None
        for name in (OURS, PLAIN, LOOP, GENERATE)
    }
    faster = {name: ratio(times, name, OURS) for name in (LOOP, GENERATE) if name in runs}
    return {
        "V, H, K, T": str(shape),
        "B": batch,
        **speed,
        f"× {LOOP}": faster.get(LOOP),
        f"× {GENERATE}": faster.get(GENERATE),
        "time / floor": ratio(times, OURS, FLOOR),
        "same": agreement([answer for name, answer in answers.items() if name != FLOOR]),
    }


def rounds(options: Options, seconds: float) -> int:
    """How many rounds fit into the time for a row, if one takes so long."""
    return max(3, min(options.repeats, int(options.seconds / seconds)))


def agreement(answers: list[Tokens]) -> str:
    """For how many examples all found the same best sequence."""
    same = [len(set(sequences)) == 1 for sequences in zip(*answers, strict=True)]
    return f"{sum(same)}/{len(same)}"


def along_time(options: Options) -> list[dict[str, Any]]:
    """Time of our search for growing lengths; the slope is fitted over all lengths of a shape."""
    rows = []
    for V, H, K, _ in (SHAPES[0], SHAPES[2]):
        step = language_model(V, H).frozen_step()
        runs = {str(T): ours(step, [0], K, T) for T in LENGTHS}
        times = interleave(runs, min(options.repeats, 20), clock=options.clock)
        medians = [statistics.median(times[name]) for name in runs]
        rows += [
            {
                "V, H, K": str((V, H, K)),
                "T": T,
                "ms": seconds * 1e3,
                "µs/step": seconds / T * 1e6,
                "slope": slope(LENGTHS, [round(seconds * 1e9) for seconds in medians]),
            }
            for T, seconds in zip(LENGTHS, medians, strict=True)
        ]
    return rows


# --- the certificate, and the lattice switched off ------------------------------------------------


def uncertified(prefixes: Any, tokens: Any, count: int, without: int | None = None) -> Any:
    """``best_candidates`` without the one that is pruned."""
    return best_candidates(prefixes, tokens, count - 1, without)


def untraced() -> Any:
    """``BeamSearch.run`` with the lattice's branch taken out of its source."""
    source = textwrap.dedent(inspect.getsource(beam.BeamSearch.run))
    if source.count("if self.trace:") != 1:
        raise RuntimeError("BeamSearch.run: its branch for the lattice is not found")
    made: dict[str, Any] = {}
    exec(source.replace("if self.trace:", "if False:"), vars(beam), made)
    return made["run"]


AS_WRITTEN = (best_candidates, beam.BeamSearch._account, beam.BeamSearch.run)
"""Parts that are taken out in turn: the candidate that is pruned, its bound, the lattice's branch."""


def put(parts: tuple[Any, Any, Any]) -> None:
    """Run with these from now on."""
    vars(beam)["best_candidates"] = parts[0]
    beam.BeamSearch._account, beam.BeamSearch.run = parts[1:]  # type: ignore[method-assign]


def certificate(options: Options) -> list[dict[str, Any]]:
    """Our search as written, beside itself, without the certificate, and without the lattice's switch."""
    candidates, account, run = AS_WRITTEN
    variants = {
        "as written": AS_WRITTEN,
        "as written, again": AS_WRITTEN,
        "no certificate": (uncertified, lambda search: None, run),
        "no lattice to switch off": (candidates, account, untraced()),
    }
    rows = []
    for V, H, K, T in SHAPES:
        search = ours(language_model(V, H).frozen_step(), [0], K, T)

        def running(parts: tuple[Any, Any, Any], search: Search = search) -> Callable[[], None]:
            def run() -> None:
                put(parts)
                search()

            return run

        runs = {name: running(parts) for name, parts in variants.items()}
        repeats = options.repeats * (10 if V <= 1_000 else 1)
        times = interleave(runs, repeats, clock=options.clock)
        put(AS_WRITTEN)
        rows += [
            {
                "V, H, K, T": str((V, H, K, T)),
                "search": name,
                "ms": milliseconds(times[name]),
                "ratio": ratio(times, name, "as written"),
            }
            for name in variants
        ]
    return rows


def main(options: Options) -> None:
    """Run the measurements."""
    with threads(1):
        report("decoding", against_peers(options), options.out)
        report("decoding-along-time", along_time(options), options.out)
        report("decoding-certificate", certificate(options), options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.decoding"))
