"""The running average task against sums by hand, and batches of the user's sequences."""

import numpy as np
import pytest

from experiments.app.errors import DataError
from experiments.regressors.data import (
    OwnSequences,
    RandomSequences,
    load_sequences,
    running_average,
    running_mean,
)


def mean_so_far(x):
    """Labels of S3, by brute force."""
    labels = np.empty_like(x)
    for t in range(x.shape[0]):
        for b in range(x.shape[1]):
            for i in range(x.shape[2]):
                labels[t, b, i] = sum(x[s, b, i] for s in range(t + 1)) / (t + 1)
    return labels


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (30, 4, 1), (7, 2, 3)])
def test_labels_are_the_mean_of_all_numbers_so_far(shape):
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(running_mean(x), mean_so_far(x), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_sequences_are_what_was_asked_for(dtype):
    source = RandomSequences(batch=4, length=9, dtype=dtype)
    inputs, labels = source.draw(np.random.default_rng(0))
    assert inputs.shape == labels.shape == (9, 4, 1)
    assert inputs.dtype == labels.dtype == dtype
    np.testing.assert_allclose(labels, mean_so_far(inputs), rtol=1e-5)


def test_random_sequences_depend_on_the_generator_alone():
    first, labels = running_average(np.random.default_rng(5), 3, 6)
    again, _ = running_average(np.random.default_rng(5), 3, 6)
    other, _ = running_average(np.random.default_rng(6), 3, 6)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not np.shares_memory(first, labels)


def test_own_sequences_are_drawn_whole_and_each_at_most_once():
    sequences = np.arange(60.0).reshape(10, 6, 1)
    inputs, labels = OwnSequences(sequences, batch=4).draw(np.random.default_rng(0))
    assert inputs.shape == labels.shape == (6, 4, 1)
    chosen = inputs[0, :, 0] / 6
    assert len(set(chosen)) == 4
    for b, index in enumerate(chosen.astype(int)):
        np.testing.assert_array_equal(inputs[:, b], sequences[index])
    np.testing.assert_allclose(labels, mean_so_far(inputs))


def test_few_own_sequences_are_all_in_every_batch():
    sequences = np.arange(12.0).reshape(2, 6, 1)
    inputs, _ = OwnSequences(sequences, batch=32).draw(np.random.default_rng(0))
    np.testing.assert_array_equal(inputs, sequences.swapaxes(0, 1))


@pytest.fixture
def measurements(tmp_path):
    """Two features in units far apart, the second constant, in a file."""
    values = np.random.default_rng(0).normal(size=(8, 12, 2)) * [1e6, 0.0] + [5e6, 3.0]
    path = tmp_path / "own.npy"
    np.save(path, values)
    return path, values


def test_standardizing_takes_the_unit_away_from_each_feature(measurements):
    path, _ = measurements
    sequences = load_sequences(path, batch=4).sequences
    np.testing.assert_allclose(sequences.mean(axis=(0, 1)), 0.0, atol=1e-12)
    np.testing.assert_allclose(sequences.std(axis=(0, 1)), [1.0, 0.0], atol=1e-12)


def test_without_standardizing_the_numbers_are_the_files(measurements):
    path, values = measurements
    source = load_sequences(path, batch=4, standardize=False)
    np.testing.assert_array_equal(source.sequences, values)
    assert (source.length, source.features) == (12, 2)


def test_length_cuts_sequences_and_never_pads_them(measurements):
    path, values = measurements
    source = load_sequences(path, batch=4, length=5, standardize=False)
    np.testing.assert_array_equal(source.sequences, values[:, :5])
    with pytest.raises(DataError, match=r"12 time steps, fewer than --length 13"):
        load_sequences(path, batch=4, length=13)


@pytest.mark.parametrize(("value", "standardize"), [(1e300, False), (1.7e308, True)])
def test_numbers_too_large_for_the_dtype_are_refused(tmp_path, value, standardize):
    path = tmp_path / "large.npy"
    np.save(path, np.array([[value, -value, value]]))
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(DataError, match="too large"):
        load_sequences(path, batch=1, standardize=standardize, dtype="float32")
