"""Looks at a run from outside: scores of its features, pictures of neighbours, its records."""
