"""``diff``: two runs side by side, and the first place where they differ."""
