import numpy as np
import pytest

import tinygrad182 as tg
from tests.oracles import loops
from tests.support import assert_close, const, leaf

matrix_of = tg.inspect.input_grad_matrix


@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("ends", [None, [5, 3]])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("of", ["output", "last state"])
def test_a_reverse_direction(
    of: str, fused: bool, ends: list[int] | None, truncate: int | None
) -> None:
    """Inputs of both directions have the time of x; the gradients through both add up to ∂L/∂x."""
    options = {"lengths": ends, "truncate": truncate}
    lstm = tg.nn.LSTM(2, 3, bidirectional=True, rng=0, dtype="float64", fused=fused)

    def losses(x: tg.Tensor, h: slice) -> list[tg.Tensor]:
        output, (last, _) = lstm(x, **options)
        if of == "output":
            return list((output[:, :, h] ** 2).sum(axis=(1, 2)))
        return [(last[0 if h.start is None else 1] ** 2).sum()]

    values = loops.inputs(0, 5, 2, 2)
    for path, h in (("lstm.l0", slice(None, 3)), ("lstm.l0_reverse", slice(3, None))):
        x = leaf(values)
        vectors = np.array([loops.grad(loss, x) for loss in losses(x, h)])
        expected = np.linalg.norm(vectors.reshape(len(vectors), 5, -1), axis=2)
        for inputs in (x, const(values)):
            if (
                of == "last state"
                and ends
                and not fused
                and path.endswith("_reverse")
                and inputs is not x
            ):
                with pytest.raises(tg.GraphError, match=r"the order in which .* is not recorded"):
                    matrix_of(losses(inputs, h), path)
                continue
            found = matrix_of(losses(inputs, h), path)
            assert_close(
                found, expected[:, -found.shape[1] :] if path == "lstm.l0" else expected, 1e-12
            )


@pytest.mark.parametrize("fused", [True, False])
def test_both_directions_of_inputs_that_do_not_require_grad(fused: bool) -> None:
    """``inputs=`` is the gradient through the whole layer, which also reads them from the end on."""
    lstm = tg.nn.LSTM(2, 3, 2, bidirectional=True, rng=0, dtype="float64", fused=fused)
    values = loops.inputs(0, 5, 2, 2)

    def losses(x: tg.Tensor) -> tg.Tensor:
        return (lstm(x)[0] ** 2).sum(axis=(1, 2))

    x, plain = leaf(values), const(values)
    expected = matrix_of(losses(x), inputs=x)
    assert expected.all()
    assert_close(matrix_of(losses(plain), inputs=plain), expected, 1e-12)


@pytest.mark.parametrize(
    "key", [slice(None, None, -1), slice(1, None, 2), slice(4, 0, -2), slice(3, None, -3)]
)
def test_some_steps_at_equal_distances(key: slice) -> None:
    values, w = loops.inputs(0, 6, 2, 3), leaf(loops.inputs(1, 3, 3))

    def losses(x: tg.Tensor) -> list[tg.Tensor]:
        return [(tg.tanh(x_t @ w) ** 2).sum() for x_t in x[key]]

    x, plain = leaf(values), const(values)
    expected = matrix_of(losses(x), inputs=x)
    assert (expected > 0).sum() == len(range(6)[key])
    assert_close(matrix_of(losses(plain), inputs=plain), expected, 1e-12)
