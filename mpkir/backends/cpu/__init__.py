"""Task families as C++17: `emit` prints what the compiler decided on top of the skeletons in include/mpk."""
