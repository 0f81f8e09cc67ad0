"""Floor 4: the actors and the shells around the machines. Only ``_ray`` imports ray."""
