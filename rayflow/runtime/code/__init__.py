"""Code environments: where an execution's code comes from, and how processes load it."""
