"""Schedules and their due times. Pure."""
