"""Frozen encoders with a small decoder on masks of tiles."""
