"""Task families as CUDA C++: `emit` prints what the compiler decided, include/mpk does the rest."""
