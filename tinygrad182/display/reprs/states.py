"""One state of a recurrence over time: its gradient as a line, and its norms as a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..pages import text
from .lines import sparkline
from .markup import fold, scientific, table

HostArray = np.ndarray[Any, Any]


def state_fold(
    name: str,
    time: HostArray,
    value_norm: HostArray,
    log10_grad_norm: HostArray,
    opened: bool = True,
) -> str:
    """Draw ‖∂L/∂h_t‖ over t in decades.

    Parameters
    ----------
    name : str
        The state's, such as ``"h"``.
    time : ndarray (T,)
    value_norm, log10_grad_norm : ndarray (T,)
        ‖h_t‖, and the decadic logarithm of ‖∂L/∂h_t‖.
    opened : bool
        Whether it is unfolded when it is shown.
    """
    symbol = name or "h"
    columns = zip(
        time.tolist(), value_norm.tolist(), map(scientific, log10_grad_norm.tolist()), strict=True
    )
    ends = (
        f": ‖∂L/∂{text(symbol)}‖ is {scientific(log10_grad_norm[0])} at t = {time[0]} "
        f"and {scientific(log10_grad_norm[-1])} at t = {time[-1]}"
        if len(time)
        else ""
    )
    rows = fold(
        "norms of every step", table(("t", f"‖{symbol}ₜ‖", f"‖∂L/∂{symbol}ₜ‖"), list(columns))
    )
    line = sparkline(f"‖∂L/∂{symbol}ₜ‖ over t", log10_grad_norm, time)
    return fold(f"<b>{text(symbol)}</b>, {len(time):,} steps{ends}", line, rows, opened=opened)
