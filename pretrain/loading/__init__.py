"""From sample numbers to batches of tiles on the device, ahead of the step."""
