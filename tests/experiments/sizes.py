"""Options that make each experiment small."""

from __future__ import annotations

from typing import Any

TINY = {"length": 4, "hidden_size": 3, "batch": 2, "repeats": 1}
SMALL: dict[str, dict[str, Any]] = {
    "gradient-flow": {
        "length": 4,
        "hidden_size": 3,
        "batch": 2,
        "steps": 1,
        "nonlinearity": ("tanh", "relu"),
        "spectral_radius": (0.5, 2.0),
    },
    "weight-paths": TINY,
    "linear-rnn": TINY | {"hidden_size": 8},
    "nonlinearity": TINY | {"draws": 1},
    "target": TINY,
    "lstm": TINY,
    "cell-path": TINY | {"steps": 1, "forget_bias": (0.0, 1.0), "hops": 2},
    "h-detach": TINY | {"draws": 2, "scale": (1.0,)},
    "sensitivity": {
        "decay": (0.5, 0.8),
        "forget_bias": (0.0, 1.0),
        "hidden_size": 2,
        "batch": 3,
        "repeats": 1,
    },
    "skip": {"length": 3, "hidden_size": 3, "batch": 2, "repeats": 1, "blocks": 2},
    "beam-tree": {},
    "beam-cost": {
        "length": (2, 4),
        "vocabulary": (4, 6),
        "beam_width": (1, 2),
        "at_length": 2,
        "at_beam_width": 2,
        "hidden_size": 3,
        "repeats": 1,
    },
    "penalty": TINY | {"steps": 2, "larger": (3.0,)},
    "training": TINY | {"length": 3, "steps": 1, "moments": 2, "layers": (2,)},
    "char-lm": {
        "hidden_size": 4,
        "embedding": 2,
        "batch": 2,
        "window": 4,
        "steps": 2,
        "moments": 2,
        "characters": 3,
        "beam_width": (2,),
        "temperature": (0.5,),
        "expansions": 9,
    },
}
"""Sizes near the smallest that each experiment takes."""
