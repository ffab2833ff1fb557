"""A manifest for other programs: CSV, Parquet, Croissant."""
