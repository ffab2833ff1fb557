"""Which tile comes next: strata, their shares, and samples that are functions of their number."""
