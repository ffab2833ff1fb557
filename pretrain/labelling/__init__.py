"""Tiles whose truth is known: what it is, the set and the unit that each is in, and leaks."""
