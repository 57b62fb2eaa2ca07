"""Families of supernets: each with everything that is particular to it."""
