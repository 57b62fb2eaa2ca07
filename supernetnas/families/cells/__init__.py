"""Supernets of cells: every operation on every edge, weighted by alphas."""
