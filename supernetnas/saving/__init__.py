"""A fitted classifier on disk and on the Hub."""
