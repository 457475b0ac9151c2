"""Rule mutation: faults are planted in every rule of every primitive, and the checks must see each.

``make mutate`` prints the table; ``test_mutations.py`` runs the same in the suite. Every rule is first run
as it is under all checks, and its calls are kept. A fault is tried on these: the checks whose calls it
answers otherwise are those that can see it, and they are run with the fault in place until one fails.
"""
