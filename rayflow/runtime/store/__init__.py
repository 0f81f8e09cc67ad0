"""The store actor: the only writer of a store."""
