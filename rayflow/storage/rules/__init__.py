"""Rules that every store applies: what an operation may change. Pure."""
