"""The embedding layer: a table of vectors, one for each token, looked up by index."""

from __future__ import annotations

from typing import Any

from .._numbers import check_whole
from ..tensors.creation import check_shape
from ..tensors.functions import expand_dims, where
from ..tensors.indexing import index_checked, place_indices, read_indices
from ..tensors.tensor import Tensor
from .init import Rng, generator, new_parameter
from .module import Module


class Embedding(Module):
    """One vector for each token: index i gives the row ``weight[i]``.

    The gradient of a row is the sum of the gradients at all places where it was looked up.

    Parameters
    ----------
    num_embeddings : int
        Number of tokens M; indices are 0 … M − 1.
    embedding_dim : int
        Elements of a vector.
    padding_idx : int, optional
        A token whose vector starts at 0 and gets no gradient. A negative index counts from the end.
    rng : int or numpy.random.Generator, optional
        Draws the initial values from N(0, 1), as in PyTorch.
    dtype, device
        ``float32`` on the default device.

    Attributes
    ----------
    weight : Parameter ``(num_embeddings, embedding_dim)``

    Examples
    --------
    >>> import tinygrad182 as tg
    >>> embedding = tg.nn.Embedding(10, 3, rng=0)
    >>> embedding([[1, 2, 4, 5], [4, 3, 2, 9]]).shape
    (2, 4, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.num_embeddings = check_whole(self, "num_embeddings", num_embeddings, 0)
        self.embedding_dim = check_whole(self, "embedding_dim", embedding_dim, 0)
        if padding_idx is not None:
            count = self.num_embeddings
            padding_idx = check_whole(self, "padding_idx", padding_idx, -count, count - 1) % count
        self.padding_idx = padding_idx
        sizes = check_shape((self.num_embeddings, self.embedding_dim), "Embedding")
        values = generator(rng).normal(size=sizes)
        if self.padding_idx is not None:
            values[self.padding_idx] = 0.0
        self.weight = new_parameter(values, dtype, device)

    def forward(self, tokens: Any) -> Tensor:
        """Look up the vectors of tokens.

        Parameters
        ----------
        tokens : Tensor, array, nested list or int ``(...)``
            Indices in [0, num_embeddings). Data of the host (arrays, lists, an int) goes to the weights'
            device. For indices on a device, the host waits once, to check their bounds.

        Returns
        -------
        Tensor ``(..., embedding_dim)``

        Raises
        ------
        DTypeError, IndexOutOfRangeError
            Indices are not integers, or there is no such row. Negative indices raise, as in PyTorch.
        """
        tokens = read_indices(tokens, "Embedding", "indices")
        indices = place_indices(tokens, self.weight, self.num_embeddings, "Embedding", "indices")
        rows = index_checked(self.weight, (indices,))
        if self.padding_idx is None:
            return rows
        return where(expand_dims(indices == self.padding_idx, -1), rows.detach(), rows)

    def extra_repr(self) -> str:
        """Return the table's sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
