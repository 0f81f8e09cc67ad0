"""Floor 2: the machines. Pure: no Ray, no clock, no randomness, no I/O; ``now`` and ``rng`` are arguments."""
