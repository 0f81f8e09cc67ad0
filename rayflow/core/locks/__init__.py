"""Locks, semaphores and deadlock detection. Pure."""
