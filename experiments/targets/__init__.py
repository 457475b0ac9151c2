"""A loss at the last step and at every step: what each says about each state."""
