"""One package for each question, with the name of its command."""
