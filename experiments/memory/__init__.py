"""How a state depends on the parameter that sets how long it remembers."""
