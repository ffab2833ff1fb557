"""An encoder put to the test on tiles whose labels are known."""
