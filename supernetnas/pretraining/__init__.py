"""How the supernets of a zoo are made."""
