"""Texts that a small model can learn."""

import numpy as np

WORDS = ["when", "yield", "with", "list", "value", "object", "class", "exception"]


def a_text(length, seed=0):
    rng = np.random.default_rng(seed)
    words = [str(rng.choice(WORDS)) for _ in range(length // 4)]
    lines = [" ".join(words[k : k + 8]) for k in range(0, len(words), 8)]
    return "\n\n".join(lines)[:length]
