"""Which source of a zoo to start from."""
