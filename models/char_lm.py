"""A character language model: it predicts the next character from those before."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad182 as tg

CELLS: dict[str, Any] = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM, "gru": tg.nn.GRU}
"""The recurrent layers that a CharLM can have. The name is also that of its attribute."""


class CharLM(tg.nn.Module):
    """A language model over characters: an embedding, a recurrent layer and a linear layer.

    Parameters
    ----------
    vocabulary : str
        The characters the model knows, each once. Their positions are the tokens 0 … M − 1.
    hidden_size : int
        Hidden units H of each recurrent layer.
    embedding_dim : int
        Size of a character's vector.
    num_layers : int
        Number of recurrent layers.
    cell : {"lstm", "rnn", "gru"}
        The kind of recurrent layer.
    forget_bias : float
        Added to the initial bias of the forget gates; only an LSTM has them.
    rng : int or numpy.random.Generator, optional
        The source of the initial values.
    dtype, device : optional
        The dtype and device of the parameters.

    Attributes
    ----------
    embedding, lstm, head : Module
        The three parts, so the parameters are ``embedding.weight``, ``lstm.weight_hh_l0`` …. With
        another ``cell`` the second part is ``rnn`` or ``gru``. ``recurrent`` is that layer of any kind.

    Raises
    ------
    VocabularyError
        The vocabulary is empty, or has a character twice.
    ArgumentError
        There is no such ``cell``.

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
        if not vocabulary:
            raise VocabularyError("the vocabulary is empty; pass each character once")
        if twice := sorted({c for c in vocabulary if vocabulary.count(c) > 1}):
            raise VocabularyError(f"a vocabulary has each character once; {_shown(twice)} repeated")
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
        """The recurrent layer."""
        return getattr(self, self.cell)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments for a model of equal shape: ``CharLM(**model.config)``; metadata of a checkpoint."""
        return {
            "vocabulary": self.vocabulary,
            "hidden_size": self.recurrent.hidden_size,
            "embedding_dim": self.embedding.embedding_dim,
            "num_layers": self.recurrent.num_layers,
            "cell": self.cell,
        }

    # --- characters -----------------------------------------------------------------------------

    def encode(self, text: str) -> np.ndarray[Any, Any]:
        """Return the tokens of a text, int64 ``(len(text),)``.

        Raises
        ------
        VocabularyError
            The text has characters that are not in the vocabulary; the message names them.
        """
        points, known = _code_points(text), _code_points(self.vocabulary)
        order = np.argsort(known)
        tokens = order[np.searchsorted(known, points, sorter=order).clip(max=len(known) - 1)]
        if (unknown := points[known[tokens] != points]).size:
            raise VocabularyError(
                f"not in the vocabulary of {len(known)} characters: "
                f"{_shown(sorted({chr(point) for point in unknown}))}"
            )
        return tokens

    def decode(self, tokens: Any) -> str:
        """Return the text of tokens, which are an array, a Tensor or a sequence of whole numbers.

        Raises
        ------
        VocabularyError
            A number is not a token.
        """
        array = np.asarray(tokens.numpy() if isinstance(tokens, tg.Tensor) else tokens)
        array = array if array.size else array.astype(np.int64)
        size = len(self.vocabulary)
        if array.dtype.kind not in "iu" or ((array < 0) | (array >= size)).any():
            raise VocabularyError(f"tokens are whole numbers in [0, {size}); got {tokens!r}")
        return "".join(self.vocabulary[token] for token in array.reshape(-1).tolist())

    # --- predictions ----------------------------------------------------------------------------

    def forward(self, tokens: Any, state: Any = None) -> tuple[tg.Tensor, Any]:
        """Predict the next character at every time step.

        Parameters
        ----------
        tokens : (T, B)
            Whole numbers: nested lists, a Tensor, a NumPy array, or an array on the model's device.
        state : (h, c), each (layers, B, H), optional
            Initial states, zeros by default. The state of an RNN or a GRU is h alone, here and below.

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
        """Predict the next character of N sequences: a step for :mod:`tinygrad182.decode`.

        Decode with ``state_axis=1``. The step is recorded, so :func:`tinygrad182.decode.rescore` shows the
        gradient of a hypothesis's log-probability through time.

        Parameters
        ----------
        tokens : (N,)
            The last character of each sequence, as for :meth:`forward`.
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
        """Move a Tensor of tokens to the model's device. The embedding itself moves other tokens."""
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
    """A vocabulary is wrong, or characters or tokens are not in it."""


def _code_points(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _shown(characters: list[str], most: int = 10) -> str:
    """Quote characters, at most as many as fit in a line."""
    more = f" and {len(characters) - most} more" if len(characters) > most else ""
    return ", ".join(map(repr, characters[:most])) + more
