"""Two different views of a tile, made for a whole batch at once on the device."""
