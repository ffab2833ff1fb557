"""What a set is made of: rows, groups, and a page with charts and pictures."""
