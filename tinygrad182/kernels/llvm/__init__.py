"""Code that writes the loops over time as LLVM text and compiles it (extra ``fast``)."""
