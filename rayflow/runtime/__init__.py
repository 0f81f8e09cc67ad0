"""Runtime: the actors, and the shells around the pure machines. Only ``actors/ray_system`` imports ray."""
