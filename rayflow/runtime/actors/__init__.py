"""Actor systems: the interface that the runtime requires, and its implementations on Ray and on threads."""
