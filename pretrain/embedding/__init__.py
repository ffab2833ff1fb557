"""An encoder by name, and the features that it gives of tiles."""
