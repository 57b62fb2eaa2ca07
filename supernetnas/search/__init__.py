"""How a supernet is searched, whatever its family."""
