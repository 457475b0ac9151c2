"""Text to learn: the reference inside the standard library or your own file, and its words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from experiments.app.errors import DataError
from experiments.drawing.words import literal, printable
from tinygrad182.display.pages import legible

HELD_OUT = 0.1
"""Share of a text, at its end, on which no model is trained."""

MOST_HELD_OUT = 50_000
"""Most held-out characters: more would only take time."""

LEAST = 2_000
"""Least number of characters: a window and a few held-out ones of each sequence."""

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

    def after(self, prompt: str, length: int) -> str:
        """The text after a prompt in the held-out text; empty where the prompt does not occur there."""
        at = self.held_out.find(prompt)
        text = self.held_out[at + len(prompt) :][:length] if at >= 0 else ""
        return text if len(text) == length else ""

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
    name = "the Python language reference" if path is None else printable(Path(path.name))
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
    """A file's text, its lines ended by a line feed.

    Raises
    ------
    DataError
        For a file that is missing or not UTF-8.
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
    r"""Beginnings of paragraphs spread over a text, in whole words, for models to go on from.

    Taken are paragraphs of more than ``length`` characters that begin with a letter; of a text without
    any, its beginning.

    >>> beginnings("So. And\n\n  so is this one here.\n\nThe end of it.", 2, 12)
    ('  so is ', 'The end of ')
    """
    pattern = rf"\n\n+( *[^\W\d_](?:.|\n(?!\n)){{{length},}})"
    found = [match[1][:length] for match in re.finditer(pattern, text)] or [text[:length]]
    chosen = dict.fromkeys(found[len(found) * k // count] for k in range(count))
    return tuple(piece[: piece.rfind(" ") + 1] or piece for piece in chosen)


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
    r"""Text on one line, its line ends, runs of spaces and control characters visible.

    >>> shown("a b\n\n   c\x1b")
    'a b⏎⏎···c␛'
    """
    spaced = re.sub(" {2,}", lambda run: "·" * len(run[0]), text)
    return str(legible(spaced.replace("\n", "⏎").replace("\t", "⇥")))


def quoted(text: str) -> str:
    """Text in quotation marks, on one line of a sentence."""
    return f"“{literal(shown(text))}”"
