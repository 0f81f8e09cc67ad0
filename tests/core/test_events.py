"""The registry of events is complete, and its numbers are unique."""

from __future__ import annotations

from typing import get_args

from rayflow.core.events import EVENT_TRAITS, Event


def test_every_event_has_its_traits() -> None:
    assert set(EVENT_TRAITS) == set(get_args(Event))


def test_no_two_events_share_a_number() -> None:
    kinds = [traits.kind for traits in EVENT_TRAITS.values()]
    assert sorted(kinds) == list(range(1, len(kinds) + 1))
