"""Tests of the study in `docs/reproduction`, on made-up data."""
