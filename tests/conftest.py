"""Settings of all tests: hypothesis profiles and the device they run on."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import tinygrad182 as tg
from tests import support

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", derandomize=True, max_examples=50, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("device", settings.get_profile("ci"), max_examples=8)
settings.load_profile("ci")  # pytest --hypothesis-profile=deep for another


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help="where the tensors under test live: cpu, cuda or cuda:N"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Many tests start Python; without bytecode each such process would compile the whole library anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        support.use(config.getoption("--device"))
    except tg.TinygradError as error:
        raise pytest.UsageError(str(error)) from error
    if support.device() != "cpu" and not config.getoption("--hypothesis-profile"):
        settings.load_profile("device")  # each call costs more there


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need PyTorch; ``make parity`` runs these alone."""
    for item in items:
        if isinstance(item, pytest.Function):
            given = getattr(item.obj, "hypothesis", None)  # the function that @given wraps
            test = given.inner_test if given else inspect.unwrap(item.obj)
            if hasattr(item.module, "torch") or "needs_torch" in test.__code__.co_names:
                item.add_marker(pytest.mark.peers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail a test that was skipped without PyTorch and has no mark: nothing would ever run it."""
    report = yield
    if (
        report.skipped
        and "'torch'" in str(report.longrepr)
        and not item.get_closest_marker("peers")
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} asks for PyTorch where conftest.py cannot see it."
    return report


def pytest_collection_finish() -> None:
    """Hide the thousands of collected tests from the cyclic garbage collector, which some tests time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _on_device() -> Iterator[None]:
    """Make new tensors on the device under test, whatever an earlier test left behind."""
    with tg.use_device(support.device()):
        yield
