"""The supervisor: an actor that assigns executions to coordinators and repairs."""
