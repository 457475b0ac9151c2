"""``watch``: norms of a training run's gradients over time, kept in a file."""
