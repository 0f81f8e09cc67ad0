"""Encoding of payloads, journal entries, schedules and large values as bytes."""
