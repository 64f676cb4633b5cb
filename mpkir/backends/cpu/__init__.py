"""Task families as C++17: what the compiler decided, on top of the skeletons in include/mpk."""
