"""Pure machines and rules: no Ray, no clock, no random numbers, no I/O. Time and ``rng`` are arguments."""
