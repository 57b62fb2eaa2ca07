"""How far datasets are from each other: optimal transport, and what it compares."""
