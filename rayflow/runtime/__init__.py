"""Floor 4: the actors and the shells around the machines. Only ``actors/ray_system`` imports ray."""
