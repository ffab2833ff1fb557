"""Tiles chosen from a manifest: by expressions, by split, and by drawing."""
