"""The page of an evaluation: one file with scores, maps, neighbours and curves."""
