"""The commands of `mpk`, each in a module named like it: its options, its help, what it calls."""
