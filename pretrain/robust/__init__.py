"""Whether an encoder knows the tissue or the scanner."""
