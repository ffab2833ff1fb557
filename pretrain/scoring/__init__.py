"""How good features are: metrics, intervals, probes and neighbours, without torch."""
