"""Several ranks that run one program together: who they are, the memory they share, what they must
agree on (docs/ranks.md)."""
