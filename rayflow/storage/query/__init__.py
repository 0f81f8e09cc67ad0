"""Queries over executions: comparisons, their text form, and cursors of pages."""
