"""Which coordinator gets an execution, and when another one is started."""

from __future__ import annotations

from rayflow.core.cluster.placement import MAX_LOAD_TO_SHARE, CoordinatorSlot, PendingExecution, PlacementPlan, plan


def want(
    id: str, *, environment: str = "env", priority: int = 5, waiting_since: float = 0.0, suspect: bool = False
) -> PendingExecution:
    return PendingExecution(id, environment, priority, waiting_since, suspect)


def place(
    name: str, *executions: str, environment: str = "env", ready: bool = True, reserved: bool = False
) -> CoordinatorSlot:
    return CoordinatorSlot(name, environment, ready, set(executions), reserved)


def short(result: PlacementPlan) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Assignments, environments to start coordinators for, and who waits."""
    assigned = [(wanting.id, chosen.name) for wanting, chosen in result.assign]
    return assigned, result.start, [wanting.id for wanting in result.waiting]


def test_nothing_wanted_nothing_done() -> None:
    assert short(plan([], [place("c1")], most=1, share=1)) == ([], [], [])


def test_an_idle_coordinator_comes_first() -> None:
    places = [place("c1", "x"), place("c2"), place("c3")]
    wanting = [want("a"), want("b"), want("c")]
    assert short(plan(wanting, places, most=9, share=9)) == ([("a", "c2"), ("b", "c3")], ["env"], ["c"])


def test_by_priority_then_age_then_id() -> None:
    wanting = [
        want("d", waiting_since=1),
        want("c"),
        want("b"),
        want("low", priority=1),
        want("high", priority=9, waiting_since=9),
    ]
    assigned, _, waiting = short(plan(wanting, [place("c1"), place("c2"), place("c3")], most=3, share=1))
    assert assigned == [("high", "c1"), ("b", "c2"), ("c", "c3")]
    assert waiting == ["d", "low"]


def test_who_is_starting_takes_one_and_no_more() -> None:
    places = [place("c1", ready=False)]
    assert short(plan([want("a")], places, most=9, share=9)) == ([], [], ["a"])
    assert short(plan([want("a"), want("b")], places, most=9, share=9)) == ([], ["env"], ["a", "b"])


def test_who_is_starting_with_an_execution_takes_no_other() -> None:
    assert short(plan([want("a")], [place("c1", "x", ready=False)], most=9, share=9)) == ([], ["env"], ["a"])


def test_starts_stop_at_the_limit_over_all_environments() -> None:
    places = [place("c1", "x", environment="other")]
    wanting = [want("a"), want("b"), want("c")]
    assert short(plan(wanting, places, most=3, share=9)) == ([], ["env", "env"], ["a", "b", "c"])


def test_beyond_the_limit_the_least_loaded_is_shared() -> None:
    places = [place("c1", "x", "y"), place("c2", "z")]
    wanting = [want("a"), want("b"), want("c")]
    result = short(plan(wanting, places, most=2, share=3))
    assert result == ([("a", "c2"), ("b", "c1"), ("c", "c2")], [], [])
    assert short(plan([want("d")], places, most=2, share=1)) == ([], [], ["d"])


def test_environments_do_not_share_but_each_gets_a_coordinator() -> None:
    places = [place("c1", environment="other")]
    wanting = [want("a"), want("b"), want("c", environment="third")]
    assert short(plan(wanting, places, most=1, share=9)) == ([], ["env", "third"], ["a", "b", "c"])
    starting = [*places, place("c2", ready=False)]
    assert short(plan(wanting[:2], starting, most=1, share=9)) == ([], [], ["a", "b"])
    served = [*places, place("c2", "x")]
    assert short(plan(wanting[:2], served, most=1, share=9)) == ([("a", "c2"), ("b", "c2")], [], [])


def test_a_suspect_runs_alone() -> None:
    suspect = want("s", suspect=True)
    assert short(plan([suspect], [place("c1", "x")], most=1, share=9)) == ([], [], ["s"])
    places = [place("c1"), place("c2", "x")]
    wanting = [want("s", suspect=True), want("t")]
    assert short(plan(wanting, places, most=2, share=9)) == ([("s", "c1"), ("t", "c2")], [], [])


def test_a_reserved_coordinator_takes_nobody() -> None:
    places = [place("c1", "s", reserved=True)]
    assert short(plan([want("a")], places, most=1, share=9)) == ([], [], ["a"])
    assert short(plan([want("a")], places, most=2, share=9)) == ([], ["env"], ["a"])


def test_one_whose_code_was_edited_takes_nobody_and_counts_for_nothing() -> None:
    old = place("old")
    old.outdated = True
    assert short(plan([want("a")], [old], most=1, share=10)) == ([], ["env"], ["a"])
    assert short(plan([want("a")], [old, place("new")], most=1, share=10)) == ([("a", "new")], [], [])


def interrupted(id: str, *, suspect: bool = False) -> PendingExecution:
    return PendingExecution(id, "env", 5, 0.0, suspect, interrupted=True)


def test_one_that_was_interrupted_shares_rather_than_waits_for_a_start() -> None:
    places = [place("c1", "x", "y"), place("c2", "z"), place("c3", ready=False)]
    assert short(plan([interrupted("a"), interrupted("b")], places, most=9, share=9)) == (
        [("a", "c2"), ("b", "c1")],
        [],
        [],
    )
    assert short(plan([want("a")], places, most=9, share=9)) == ([], [], ["a"])


def test_but_not_where_that_would_be_felt_nor_where_it_has_to_run_alone() -> None:
    full = place("c1", *map(str, range(MAX_LOAD_TO_SHARE)))
    assert short(plan([interrupted("a")], [full], most=9, share=99)) == ([], ["env"], ["a"])
    assert short(plan([interrupted("a")], [place("c1", "x")], most=9, share=1)) == ([], ["env"], ["a"])
    assert short(plan([interrupted("a", suspect=True)], [place("c1", "x")], most=9, share=9)) == ([], ["env"], ["a"])


def test_nobody_waits_for_one_that_is_late_in_starting() -> None:
    late = place("c1", ready=False)
    late.late = True
    assert short(plan([want("a")], [late], most=9, share=9)) == ([], ["env"], ["a"])
    assert short(plan([want("a")], [late, place("c2", "x")], most=2, share=9)) == ([("a", "c2")], [], [])
