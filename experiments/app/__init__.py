"""The command, the catalogue of questions, and the folder and report of a run."""
