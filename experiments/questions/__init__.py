"""Questions: a package each, with the name of its command. How to add one: see app/catalogue.py."""
