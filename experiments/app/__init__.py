"""The command, the catalogue of questions, and the folder and report of a run.

- ``command_line``: parses the arguments, runs one question or several, prints what was found
- ``catalogue``: the names of the questions, and what each defines as its ``EXPERIMENT``
- ``options``: the flags that every question has, and checks of them
- ``result``: what a run returns: headline, sentences, claims, tables, figures
- ``run_folder``: the files of a run, moved to their place together
- ``report``: the pages made from ``templates/``
- ``streams``: standard output and standard error
- ``errors``: errors that a user can do something about
"""
