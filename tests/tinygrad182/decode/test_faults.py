"""The property named beside a planted fault fails with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support import host_only

from .cases import PENALTIES, Case, cases
from .faults import FAULTS, Fault
from .properties import SMALL

pytestmark = host_only("what is changed is the same for every device")

EXAMPLES = 400  # at most: most are seen in the first ten


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_seen(fault: Fault) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(cases(fault.seen_by not in SMALL, fault.penalties or PENALTIES))
    def run(case: Case) -> None:
        fault.seen_by(case, fault.search)

    with pytest.raises(AssertionError) as seen:
        run()
    assert "tinygrad182.decode has no" not in str(seen.value)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_wrapper_that_changes_nothing_is_not_seen(fault: Fault) -> None:
    """Properties notice the change, not that a function was wrapped."""
    unchanged = replace(fault, change=lambda function, *args, **named: function(*args, **named))

    @settings(max_examples=3, derandomize=True, database=None, deadline=None)
    @given(cases(fault.seen_by not in SMALL, fault.penalties or PENALTIES))
    def run(case: Case) -> None:
        fault.seen_by(case, unchanged.search)

    run()
