"""Which states belong to one recurrence, which step an operation belongs to, and steps recorded again."""
