"""Text to learn: the reference inside the standard library or a person's file, and its words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from experiments.common.errors import DataError

HELD_OUT = 0.1
"""Share of a text, its end, that no model is trained on."""

MOST_HELD_OUT = 50_000
"""Characters: more would only take time."""

LEAST = 2_000
"""Characters a text must have: a window and a few held-out ones of each sequence."""

WORD = re.compile(r"[^\W\d_]{4,}")
"""Words: at least four letters, since shorter ones come about by chance."""


@dataclass(frozen=True)
class Corpus:
    """A text, cut in two.

    Parameters
    ----------
    name : str
        What it is, in words.
    training, held_out : str
        What models learn from, and what follows it.
    """

    name: str
    training: str
    held_out: str

    @property
    def vocabulary(self) -> str:
        """Every character of both parts once, in the order of their code points."""
        return "".join(sorted(set(self.training) | set(self.held_out)))


def corpus(path: Path | None) -> Corpus:
    """The reference, or a file, cut into its training and its held-out part.

    Raises
    ------
    DataError
        For a file that cannot be used; it names the file and the remedy.
    """
    name = "the Python language reference" if path is None else path.name
    text = reference() if path is None else read_text(path)
    if len(text) < LEAST:
        raise DataError(f"{name}: {len(text):,} characters; {LEAST:,} or more are needed")
    held_out = min(int(HELD_OUT * len(text)), MOST_HELD_OUT)
    return Corpus(name, text[:-held_out], text[-held_out:])


def reference() -> str:
    """The language reference that Python's ``help()`` shows, each paragraph once.

    Topics repeat each other's sections. Kept once, no paragraph of the held-out part is in the other.
    """
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError(
            "This Python lacks the help topics (the module pydoc_data); name a text with --data FILE"
        ) from error
    return "\n\n".join(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))


def read_text(path: Path) -> str:
    """A file's text, its line ends as ``\\n``.

    Raises
    ------
    DataError
        For a file that is missing or no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; save it as UTF-8") from None


def beginnings(text: str, count: int, length: int = 40) -> tuple[str, ...]:
    """Whole words of paragraphs spread over a text, to be gone on from.

    >>> beginnings("It is so. And\\n\\n  so is this one here.\\n\\nThe end.", 2, 12)
    ('It is so. ', '  so is ')
    """
    starts = [0, *(match.end() for match in re.finditer(r"\n\n+", text))]
    starts = [start for start in starts if start + length <= len(text)] or [0]
    chosen = [starts[len(starts) * k // count] for k in range(count)]
    found = (text[start : start + length] for start in dict.fromkeys(chosen))
    return tuple(piece[: piece.rfind(" ") + 1] or piece for piece in found if piece)


def known_share(text: str, known: set[str]) -> float:
    """Share of a text's words that are known; NaN for a text without words.

    >>> known_share("Some words here, a wrod", {"some", "words", "here"})
    0.75
    """
    words = words_of(text)
    return sum(word in known for word in words) / len(words) if words else float("nan")


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters.

    >>> words_of("To_yield a Value")
    ['yield', 'value']
    """
    return [word.lower() for word in WORD.findall(text)]


def shown(text: str) -> str:
    """Text on one line, its line ends and runs of spaces visible.

    >>> shown("a\\n\\n   b")
    'a⏎⏎\\xa0\\xa0\\xa0b'
    """
    spaced = re.sub(" {2,}", lambda run: "\N{NO-BREAK SPACE}" * len(run[0]), text)
    return spaced.replace("\n", "⏎").replace("\t", "⇥")
