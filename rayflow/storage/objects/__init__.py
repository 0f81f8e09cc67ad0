"""Object storage implementation of the `Store` contract."""
