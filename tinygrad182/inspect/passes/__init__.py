"""Backward passes whose cotangents carry powers of two, so that no magnitude is lost."""
