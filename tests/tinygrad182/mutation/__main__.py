"""Every fault in every rule: ``python -m tests.tinygrad182.mutation``, which is ``make mutate``.

The suite plants a part of them (``test_mutations.py``).
"""

from __future__ import annotations

import sys

from tinygrad182.primitives import PRIMITIVES

from .planting import mutate
from .reviewed import EQUIVALENT


def main() -> int:
    """Print the fates of all mutants; return 1 if one survived, or one reviewed as equal was killed."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    console = Console()
    table = Table("primitive", title="Rule mutation")
    for column in ("mutants", "killed", "equivalent", "survivors"):
        table.add_column(column, justify="right")
    reports = []
    for name in track(sorted(PRIMITIVES), "Planting faults", console=console, transient=True):
        reports.append(mutate(PRIMITIVES[name], thorough=True))
        r = reports[-1]
        table.add_row(
            name, *map(str, (r.count, len(r.killed), len(r.equivalent), len(r.survivors)))
        )
    survivors = [label for r in reports for label in r.survivors]
    killed, count = sum(len(r.killed) for r in reports), sum(r.count for r in reports)
    equivalent = count - killed - len(survivors)
    table.add_section()
    table.add_row("all", *map(str, (count, killed, equivalent, len(survivors))))
    console.print(table)
    console.print(
        f"Kill rate {killed / (count - equivalent):.2%} of those that are not equivalent."
    )
    for label in survivors:
        console.print(f"survived: {label}", style="red", highlight=False)
    stale = [label for r in reports for label in r.killed if label in EQUIVALENT]
    for label in stale:
        console.print(f"killed, so take it off reviewed.py: {label}", style="red", highlight=False)
    return bool(survivors or stale)


if __name__ == "__main__":
    sys.exit(main())
