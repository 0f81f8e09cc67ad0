"""Locks, semaphores and deadlock detection."""
