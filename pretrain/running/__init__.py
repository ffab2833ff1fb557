"""One run from start to end: its plan, its folder, its checkpoints, its speed."""
