"""Rule mutation: faults are planted in every rule of every primitive, and the checks must see each.

``make mutate`` plants every fault in every rule and prints the table. ``test_mutations.py`` plants a part
of them in the suite: each fault in one rule of each primitive. A rule is first run as it is under all
checks of a row, and its calls are kept. A fault is tried on these: the checks whose calls it answers
otherwise are those that can see it, and they are run with the fault in place until one fails.
"""
