"""Engines, handles and what they offer: the code that a user's program calls."""
