"""Functions of functions: ``vjp``, ``jvp``, ``jacobian``, ``hessian`` and ``remat``."""
