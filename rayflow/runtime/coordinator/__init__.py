"""The coordinator: an actor that drives executions."""
