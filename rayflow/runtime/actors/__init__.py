"""Actor systems: the interface that the runtime needs, and its implementations on Ray and on threads."""
