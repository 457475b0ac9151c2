"""The loops over time as LLVM's code, and the machine code that LLVM makes of it (the extra ``fast``).

:mod:`..compiled` calls the machine code. It is written in these layers:

- ``vectors``: registers with Python's operators, loads and stores, loops over rows;
- ``operations``: exp, tanh and the other operations of a program, on registers;
- ``matrices``: matrix products; ``row_powers``: the powers of two of rows of cotangents;
- ``time_loops``: a program's loops over time, made of all these;
- ``machine_code``: compiles the text, and keeps the result in a file for later processes.
"""
