"""Networks that learn the running average, watched while they do."""
