"""What is in a set more than once: equal bytes, and pictures that look the same."""
