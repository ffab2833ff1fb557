"""Training, validation and test sets, and what lies in two of them."""
