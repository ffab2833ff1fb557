"""Encoders, their first weights, and the files and cards in which they leave."""
