"""Floor 1: what a person writes: workflows, steps, agents and their options."""
