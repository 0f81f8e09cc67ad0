"""The recovery's machines in any order of events, held against what they mean."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rayflow.core.cluster.recovery import (
    MAX_TAKEOVERS,
    TAKEOVERS_BEFORE_ISOLATION,
    FailoverAction,
    FailoverCounter,
    HeartbeatTracker,
)

PATIENCE = 4.0
NAMES = st.sampled_from("ab")
#: What happens to whom: a tick of a clock, a question, its answer, an error, or that nobody asks it any more.
SIGNS = st.lists(
    st.tuples(st.sampled_from(["tick", "ask", "ask", "answered", "unreachable", "forget"]), NAMES), max_size=80
)


@given(SIGNS)
def test_who_is_silent_is_who_was_asked_and_has_not_answered_for_longer_than_the_patience(
    signs: list[tuple[str, str]],
) -> None:
    pulse, now = HeartbeatTracker(PATIENCE), 0.0
    since: dict[str, float] = {}
    waiting: set[str] = set()
    for what, name in signs:
        match what:
            case "tick":
                now += 1.0
            case "ask":
                assert pulse.ask(name, now) == (name not in waiting), "one question is open at most"
                since.setdefault(name, now)
                waiting.add(name)
            case "answered" | "forget":
                pulse.answered(name) if what == "answered" else pulse.forget(name)
                since.pop(name, None)
                waiting.discard(name)
            case _:
                pulse.answered(name, alive=False)
                waiting.discard(name)
        assert pulse.silent(now) == {n: now - at for n, at in since.items() if now - at > PATIENCE}


#: A death of the execution's coordinator after so many new entries, or that it was given up in good order.
DEATHS = st.lists(st.tuples(NAMES, st.one_of(st.none(), st.integers(0, 2))), max_size=60)


@given(DEATHS)
def test_only_who_gets_no_further_is_suspected_and_only_then_set_aside(deaths: list[tuple[str, int | None]]) -> None:
    takeovers = FailoverCounter()
    at = {"a": 0, "b": 0}
    row: dict[str, int] = {}
    for name, entries in deaths:
        if entries is None:
            takeovers.forget(name)
            row.pop(name, None)
            continue
        at[name] += entries
        row[name] = 1 if entries or name not in row else row[name] + 1
        how = takeovers.record_loss(name, at[name])
        assert (how is FailoverAction.QUARANTINE) == (row[name] > MAX_TAKEOVERS)
        assert takeovers.suspected(name) == (row[name] >= TAKEOVERS_BEFORE_ISOLATION)
        assert not takeovers.has_progressed(name, at[name])
        assert takeovers.has_progressed(name, at[name] + 1)
    assert takeovers.counts() == row
