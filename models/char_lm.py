"""A character language model: the distribution of the next character, given those before."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg

CELLS: dict[str, Any] = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM, "gru": tg.nn.GRU}
"""Recurrent layers of a CharLM, by the name of the attribute that holds them."""


class CharLM(tg.nn.Module):
    """Embedding, a recurrent layer and Linear over characters.

    Parameters
    ----------
    vocabulary : str
        The characters the model knows, each once; their positions are the tokens 0 … M − 1.
    hidden_size : int
        Hidden units H of each recurrent layer.
    embedding_dim : int
        Elements of a character's vector.
    num_layers : int
        Recurrent layers above each other.
    cell : {"lstm", "rnn", "gru"}
        The kind of recurrent layer.
    forget_bias : float
        Added to the initial bias of the forget gates; only an LSTM has them.
    rng : int or numpy.random.Generator, optional
        Where the initial values come from.
    dtype, device : optional
        Of the parameters.

    Attributes
    ----------
    embedding, lstm, head : Module
        The three parts, so the parameters are ``embedding.weight``, ``lstm.weight_hh_l0`` …. With
        another ``cell`` the second one is ``rnn`` or ``gru``; ``recurrent`` is the layer of any kind.

    Raises
    ------
    VocabularyError
        A vocabulary without characters, or with one of them twice.
    ArgumentError
        A ``cell`` that there is not.

    Examples
    --------
    >>> model = CharLM("abc ", hidden_size=8, rng=0)
    >>> model.encode("a cab")
    array([0, 3, 2, 0, 1])
    >>> logits, (h, c) = model(model.encode("a cab")[:, None])
    >>> logits.shape, h.shape
    ((5, 1, 4), (1, 1, 8))

    With another cell the state is h alone:

    >>> model = CharLM("abc ", hidden_size=8, cell="gru", rng=0)
    >>> logits, h = model(model.encode("a cab")[:, None])
    >>> h.shape
    (1, 1, 8)
    """

    def __init__(
        self,
        vocabulary: str,
        hidden_size: int = 128,
        embedding_dim: int = 32,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        forget_bias: float = 1.0,
        rng: int | np.random.Generator | None = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(vocabulary, str):
            raise VocabularyError(
                f"a vocabulary is a string of characters, not a {type(vocabulary).__name__}"
            )
        if not vocabulary or len(set(vocabulary)) < len(vocabulary):
            twice = sorted({c for c in vocabulary if vocabulary.count(c) > 1})
            raise VocabularyError(
                f"a vocabulary is a string with every character once; "
                f"{_shown(twice)} stand in it more often"
                if twice
                else "the vocabulary is empty"
            )
        if cell not in CELLS:
            raise tg.ArgumentError(
                f"CharLM: there is no cell {cell!r}; choose one of {', '.join(map(repr, CELLS))}"
            )
        rng = np.random.default_rng(rng)
        options: dict[str, Any] = {"rng": rng, "dtype": dtype, "device": device}
        gates: dict[str, Any] = {"forget_bias": forget_bias} if cell == "lstm" else {}
        self.cell = cell
        self.vocabulary = vocabulary
        self.embedding = tg.nn.Embedding(len(vocabulary), embedding_dim, **options)
        layer = CELLS[cell](embedding_dim, hidden_size, num_layers, **gates, **options)
        setattr(self, cell, layer)
        self.head = tg.nn.Linear(hidden_size, len(vocabulary), **options)

    @property
    def recurrent(self) -> Any:
        """The recurrent layer, of whichever cell."""
        return getattr(self, self.cell)

    @property
    def config(self) -> dict[str, Any]:
        """What makes a model of the same shape: ``CharLM(**model.config)``; a checkpoint's meta."""
        return {
            "vocabulary": self.vocabulary,
            "hidden_size": self.recurrent.hidden_size,
            "embedding_dim": self.embedding.embedding_dim,
            "num_layers": self.recurrent.num_layers,
            "cell": self.cell,
        }

    # --- characters -----------------------------------------------------------------------------

    def encode(self, text: str) -> np.ndarray[Any, Any]:
        """The tokens of a text, int64 ``(len(text),)``.

        Raises
        ------
        VocabularyError
            Characters that are not in the vocabulary; they are named.
        """
        points, known = _code_points(text), _code_points(self.vocabulary)
        order = np.argsort(known)
        tokens = order[np.searchsorted(known, points, sorter=order).clip(max=len(known) - 1)]
        if (strangers := points[known[tokens] != points]).size:
            raise VocabularyError(
                f"not in the vocabulary of {len(known)} characters: "
                f"{_shown(sorted({chr(point) for point in strangers}))}"
            )
        return tokens

    def decode(self, tokens: Any) -> str:
        """The text of tokens: an array, a Tensor or a sequence of whole numbers.

        Raises
        ------
        VocabularyError
            A number that is not a token.
        """
        array = np.asarray(tokens.numpy() if isinstance(tokens, tg.Tensor) else tokens)
        array = array if array.size else array.astype(np.int64)
        size = len(self.vocabulary)
        if array.dtype.kind not in "iu" or ((array < 0) | (array >= size)).any():
            raise VocabularyError(f"tokens are whole numbers in [0, {size}); got {tokens!r}")
        return "".join(self.vocabulary[token] for token in array.reshape(-1).tolist())

    # --- over a sequence and by one step --------------------------------------------------------

    def forward(self, tokens: Any, state: Any = None) -> tuple[tg.Tensor, Any]:
        """Predict the next character at every time step.

        Parameters
        ----------
        tokens : (T, B)
            Whole numbers: nested lists, a Tensor or an array of the host, or an array where the model is.
        state : (h, c), each (layers, B, H), optional
            Initial states; zero where none are given. Of an RNN or a GRU it is h alone, here and below.

        Returns
        -------
        logits : Tensor (T, B, M)
            Unnormalized log-probabilities.
        state : (h, c), each Tensor (layers, B, H)
            The last states.
        """
        hidden, state = self.recurrent(self.embedding(self._here(tokens)), state)
        return self.head(hidden), state

    def step(self, tokens: Any, state: Any = None) -> tuple[tg.Tensor, Any]:
        """Go on by one character: what :mod:`tinygrad182.decode` takes, with ``state_axis=1``.

        Recorded like everything else, so :func:`tinygrad182.decode.rescore` shows the gradient of a
        hypothesis' log-probability through time.

        Parameters
        ----------
        tokens : (N,)
            The last character of each of N sequences; as :meth:`forward` takes them.
        state : (h, c), each (layers, N, H), optional

        Returns
        -------
        log_probabilities : Tensor (N, M)
        state : (h, c), each Tensor (layers, N, H)

        Examples
        --------
        >>> model = CharLM("abc ", hidden_size=8, rng=0)
        >>> log_probabilities, state = model.step([0, 1])
        >>> log_probabilities.shape, state[0].shape
        ((2, 4), (1, 2, 8))
        """
        tokens = self._here(tokens if hasattr(tokens, "dtype") else np.asarray(tokens))
        logits, state = self(tokens[None], state)
        return tg.log_softmax(logits[0]), state

    def _here(self, tokens: Any) -> Any:
        """Move a Tensor of tokens to the model's device; the embedding takes other tokens from the host."""
        return tokens.to(self.embedding.weight.device) if isinstance(tokens, tg.Tensor) else tokens

    def frozen_step(self) -> tg.decode.LSTMStep:
        """:meth:`step` with the present weights, on arrays and faster: for decoding with an LSTM.

        Returns
        -------
        tg.decode.LSTMStep
            ``step(tokens, state=None) -> (log_probabilities, (h, c))``: the numbers of :meth:`step`, to
            rounding, as arrays of the weights' library.

        Raises
        ------
        ArgumentError
            The model's cell is not an LSTM; decode with :meth:`step`.

        Examples
        --------
        >>> model = CharLM("abc ", hidden_size=8, rng=0)
        >>> log_probabilities, (h, c) = model.frozen_step()(np.array([0, 1]))
        >>> log_probabilities.shape, h.shape
        ((2, 4), (1, 2, 8))
        """
        return tg.decode.LSTMStep(self.embedding, self.recurrent, self.head)


class VocabularyError(tg.TinygradError, ValueError):
    """Characters or tokens that are not in the vocabulary."""


def _code_points(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _shown(characters: list[str], most: int = 10) -> str:
    """Characters, quoted; not more than fit a line."""
    more = f" and {len(characters) - most} more" if len(characters) > most else ""
    return ", ".join(map(repr, characters[:most])) + more
