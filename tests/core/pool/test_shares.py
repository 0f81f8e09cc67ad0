"""Sharing within one priority, and exclusive tasks."""

from __future__ import annotations

from rayflow.core.pool import Grant, Recall
from rayflow.core.pool.plan import fair_share
from tests.core.pool.pool_bench import Bench, Coordinator, granted, recalled, wish


# --- fairness ---------------------------------------------------------------------------------------------
def test_a_newcomer_of_the_same_priority_gets_half_the_slots_after_a_quantum() -> None:
    bench = Bench(workers=4, slots=4, quantum=0.25)
    bench.wants("old", wish(5, 5000))
    bench.wants("old", wish(5, 4984))
    bench.now = 10.0
    bench.says("old")
    assert bench.wants("new", wish(5, 100, waiting_since=10.0)) == []
    assert bench.machine.next_wake(10.0) == 10.25
    assert recalled(bench.at(10.25)) == ["old"] * 8
    bench.coordinators["new"].wants = [wish(5, 92, waiting_since=10.0)]
    tokens = list(bench.coordinators["old"].held)[:8]
    for token in tokens:  # one by one: the old one's older stamps do not win them back
        assert [name for name, _ in granted(bench.gives_back("old", token))] == ["new"]
        bench.coordinators["new"].wants = [wish(5, 92, waiting_since=10.0)]
    assert (bench.held("old"), bench.held("new")) == (8, 8)
    assert [bench.at(11.0), bench.at(12.0)] == [[], []]  # and so it stays


def test_until_somebody_waited_a_quantum_the_older_stamp_goes_first() -> None:
    bench = Bench(workers=1, slots=4, quantum=0.25, up=False)
    bench.wants("old", wish(5, 3, waiting_since=-0.2))
    bench.wants("new", wish(5, 3, waiting_since=-0.1))
    bench.up("w")
    assert [name for name, _ in granted(bench.decide())] == ["old", "old", "old", "new"]


def test_free_slots_are_shared_out_when_somebody_waited_a_quantum() -> None:
    bench = Bench(workers=1, slots=4, quantum=0.25, up=False)
    bench.wants("old", wish(5, 9, waiting_since=-2.0))
    bench.wants("new", wish(5, 3, waiting_since=-1.0))
    bench.up("w")
    assert sorted(name for name, _ in granted(bench.decide())) == ["new", "new", "old", "old"]


def test_a_slot_is_kept_for_a_quantum_before_it_is_shared() -> None:
    bench = Bench(workers=1, slots=2, quantum=1.0)
    bench.wants("new", wish(5, 2, waiting_since=-9.0))
    bench.wants("new", wish(5, 9, waiting_since=-9.0))
    assert bench.wants("other", wish(5, 9, waiting_since=-5.0)) == []
    assert bench.machine.next_wake(0.0) == 1.0
    assert recalled(bench.at(1.0)) == ["new"]


def test_with_fewer_slots_than_coordinators_they_take_turns() -> None:
    bench = Bench(workers=1, slots=1, quantum=1.0)
    for name, waiting_since in (("a", 0.0), ("b", 0.1), ("c", 0.2)):
        bench.wants(name, wish(5, 99, waiting_since=waiting_since))
    turns = []
    for second in range(1, 8):
        for name in recalled(bench.at(second * 1.5)):
            turns.append(name)
            bench.gives_back(name)
    assert turns == ["a", "b", "c", "a", "b", "c", "a"]


def test_with_more_coordinators_than_slots_the_longest_held_slot_is_next() -> None:
    bench = Bench(workers=1, slots=2, quantum=1.0)
    bench.wants("b", wish(5, 1))
    bench.now = 0.5
    for name in ("a", "b", "c"):
        bench.wants(name, wish(5, 1))
        bench.wants(name, wish(5, 9, waiting_since=0.5))
    assert (bench.held("a"), bench.held("b")) == (1, 1)
    assert recalled(bench.at(1.5)) == ["b"]


def test_who_lost_a_slot_waits_a_quantum_for_the_next() -> None:
    bench = Bench(workers=2, slots=1, quantum=1.0)
    bench.wants("a", wish(5, 1))
    bench.wants("c", wish(5, 1))
    for name in ("a", "c"):
        bench.wants(name, wish(5, 9))
    bench.at(1.5)
    bench.machine.worker_down("a", 1.5)
    bench.decide()
    assert (bench.held("a"), bench.machine.next_wake(1.5)) == (0, 2.5)
    assert [recalled(bench.at(2.25)), recalled(bench.at(2.5))] == [[], ["c"]]


def test_slots_that_come_free_one_after_the_other_are_shared_out_evenly_too() -> None:
    bench = Bench(workers=1, slots=8, quantum=0.25)
    bench.wants("low", wish(1, 8))
    bench.wants("low", wish(1, 8))
    bench.wants("a", wish(5, 8))
    bench.wants("b", wish(5, 8))
    bench.at(0.5)
    grants = granted(bench.gives_back("low", *list(bench.coordinators["low"].held)[:4]))
    assert sorted(name for name, _ in grants) == ["a", "a", "b", "b"]


def test_grants_in_flight_are_part_of_the_share() -> None:
    bench = Bench(workers=1, slots=2, quantum=0.25)
    bench.wants("old", wish(5, 2))
    bench.wants("old", wish(5, 8))
    bench.wants("new", wish(5, 2))
    assert recalled(bench.at(0.25)) == ["old"]
    assert granted(bench.gives_back("old", "1.1")) == [("new", "a")]
    assert bench.wants("old", wish(5, 7)) == []  # the new one has its half, although it has not said so


def test_who_has_a_grant_in_flight_cedes_what_is_above_its_share() -> None:
    bench = Bench(workers=1, slots=3, quantum=0.25)
    bench.wants("both", wish(5, 1))
    bench.wants("old", wish(5, 1))
    for name in ("old", "both"):
        bench.coordinators[name].wants = [wish(5, 9, waiting_since=0.2)] if name == "both" else []
        bench.coordinators[name].update(bench.machine, 0.2)
    assert granted(bench.machine.decide(0.2)) == [("both", "a")]  # and it does not arrive
    bench.coordinators["old"].wants = [wish(5, 9, waiting_since=0.2)]
    bench.at(0.25)
    assert bench.wants("due", wish(5, 9, waiting_since=-1.0)) == [Recall("both", "1.1", 1.25)]


def test_grants_in_flight_are_shares_too_when_others_are_measured() -> None:
    bench = Bench(workers=1, slots=7, quantum=0.25)
    bench.wants("holder", wish(5, 5))
    demand = [wish(5, 3, waiting_since=0.25)]
    bench.machine.update("flying", sequence=1, epoch=1, seen=0, demand=demand, holding={}, now=0.25)
    assert len(granted(bench.decide())) == 2
    bench.now = 0.25
    bench.wants("holder", wish(5, 9, waiting_since=0.25))
    assert recalled(bench.wants("due", wish(5, 9, waiting_since=-1.0))) == ["holder"] * 3  # 3, 2 and 2


def test_shares_do_not_reach_below_their_priority() -> None:
    bench = Bench(workers=1, slots=2, quantum=1.0)
    bench.wants("a", wish(5, 2, waiting_since=0.0))
    bench.wants("a", wish(5, 9, waiting_since=0.0))
    bench.wants("b", wish(5, 9, waiting_since=-5.0))
    assert bench.wants("low", wish(1, 9, waiting_since=-50.0)) == []  # a's young slot is b's, not low's
    assert recalled(bench.at(1.0)) == ["a"]


def test_shares_follow_what_each_can_use() -> None:
    assert fair_share({"a": 9, "b": 1, "c": 9}, 8, ["c", "b", "a"]) == {"c": 4, "b": 1, "a": 3}
    assert fair_share({"a": 1, "b": 1}, 9, ["a", "b"]) == {"a": 1, "b": 1}
    assert fair_share({"a": 0, "b": 5, "c": 5}, 1, ["a", "b", "c"]) == {"a": 0, "b": 1, "c": 0}


# --- exclusive ------------------------------------------------------------------------------------------------
def test_a_lonely_task_takes_all_slots_of_an_empty_worker() -> None:
    bench = Bench(workers=2, slots=4)
    bench.wants("a", wish())
    assert bench.wants("b", wish(exclusive=True)) == [Grant("b", 1, "1.2.exclusive", "b", "env", 5, exclusive=True)]
    assert bench.machine.stats(0.0).busy == 5
    assert {worker for _, worker in granted(bench.wants("c", wish(count=9)))} == {"a"}


def test_a_worker_is_emptied_for_a_lonely_task_that_waited_a_quantum() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("a", wish(count=4))
    bench.wants("a", wish(count=9))
    bench.gives_back("a", "1.1")
    assert bench.held("a") == 4
    assert bench.wants("b", wish(exclusive=True)) == []
    commands = bench.at(0.25)
    assert recalled(commands) == ["a", "a"]
    drained = bench.machine.stats(0.25).environments[0].draining
    assert drained == "a"
    tokens = [token for token, worker in bench.coordinators["a"].held.items() if worker == drained]
    assert granted(bench.gives_back("a", tokens[0])) == []  # its free slot is not granted meanwhile
    assert granted(bench.gives_back("a", tokens[1])) == [("b", "a")]
    assert bench.machine.stats(0.25).environments[0].draining is None


def test_one_worker_at_a_time_is_emptied_and_the_same_one_until_it_is() -> None:
    bench = Bench(workers=3, slots=2, quantum=0.25)
    bench.wants("a", wish(count=6))
    bench.wants("a")
    bench.wants("b", wish(count=2, exclusive=True))
    bench.at(0.25)
    bench.gives_back("a", next(token for token, worker in bench.coordinators["a"].held.items() if worker == "c"))
    assert bench.machine.stats(0.3).environments[0].draining == "a"
    assert {worker for token, worker in bench.coordinators["a"].held.items()} == {"a", "b", "c"}
    assert recalled(bench.at(0.5)) == []


def test_a_more_urgent_task_takes_the_slots_of_a_worker_that_is_being_emptied() -> None:
    bench = Bench(workers=1, slots=2, quantum=0.25)
    bench.wants("a", wish(count=2))
    bench.wants("a")
    bench.wants("lonely", wish(5, exclusive=True))
    bench.at(0.25)
    bench.gives_back("a", "1.1")
    assert granted(bench.wants("high", wish(9))) == [("high", "a")]


def test_what_more_urgent_tasks_keep_is_not_emptied() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("a", wish(9, 4))
    bench.wants("a", wish(9, 3))
    bench.wants("lonely", wish(5, exclusive=True))
    assert bench.at(0.25) == []
    bench.wants("a", wish(9, 2))  # two of its four slots can be spared: a whole worker
    assert bench.machine.stats(0.25).environments[0].draining == "a"
    assert sorted(bench.coordinators["a"].recalled) == ["1.1", "1.3"]


def test_lonely_tasks_do_not_crowd_out_their_own_priority() -> None:
    bench = Bench(workers=2, slots=1, quantum=0.25)
    bench.wants("plain", wish(count=2))
    bench.wants("plain", wish(count=9))
    bench.wants("lonely", wish(count=9, exclusive=True))
    assert recalled(bench.at(1.0)) == ["plain"]
    assert granted(bench.gives_back("plain", "1.1")) == [("lonely", "a")]
    bench.coordinators["lonely"].wants = [wish(count=8, exclusive=True)]
    commands = bench.at(2.0)
    assert recalled(commands) == ["lonely"]  # a whole worker is for one task
    assert bench.machine.stats(2.0).environments[0].draining is None
    assert bench.held("plain") == 1


def test_without_others_lonely_tasks_use_all_empty_workers() -> None:
    bench = Bench(workers=3, slots=2, quantum=0.25)
    assert granted(bench.wants("b", wish(count=5, exclusive=True, waiting_since=-9.0))) == [
        ("b", "a"),
        ("b", "b"),
        ("b", "c"),
    ]


def test_recalls_on_a_worker_that_is_emptied_do_not_count_for_others() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("a", wish(5, 4))
    bench.wants("a")
    bench.wants("lonely", wish(9, exclusive=True))
    on = dict(bench.coordinators["a"].held)
    bench.coordinators["b"] = Coordinator("b")
    bench.coordinators["b"].wants = [wish(5, 1, waiting_since=0.2)]
    assert [on[command.token] for command in bench.at(0.25) if isinstance(command, Recall)] == ["a", "a", "b"]
    bench.coordinators["b"].wants = [wish(5, 2, waiting_since=0.2)]
    assert [on[command.token] for command in bench.says("b") if isinstance(command, Recall)] == ["b"]


def test_the_worker_with_the_fewest_leases_is_emptied() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("a", wish(count=4))
    bench.wants("a")
    bench.gives_back("a", "1.2")
    assert sorted(set(bench.coordinators["a"].held.values())) == ["a", "b"]
    bench.wants("lonely", wish(exclusive=True))
    assert recalled(bench.at(0.25)) == ["a"]
    assert bench.machine.stats(0.25).environments[0].draining == "b"


def test_a_worker_that_is_already_given_to_a_lonely_task_is_not_emptied_for_another() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("first", wish(exclusive=True))
    bench.wants("plain", wish(count=2))
    bench.wants("plain")
    bench.wants("second", wish(exclusive=True))
    assert sorted(recalled(bench.at(0.25))) == ["first", "plain", "plain"]
    assert bench.machine.stats(0.25).environments[0].draining == "b"


def test_one_worker_is_emptied_for_lonely_tasks_of_several_priorities() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("a", wish(1, 4))
    bench.wants("a")
    bench.wants("b", wish(5, exclusive=True))
    bench.wants("c", wish(7, exclusive=True))
    assert recalled(bench.at(0.25)) == ["a", "a"]


def test_a_slot_elsewhere_is_granted_before_one_of_a_worker_that_is_being_emptied() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("a", wish(count=4))
    bench.wants("a")
    bench.wants("lonely", wish(5, exclusive=True))
    bench.at(0.25)
    bench.gives_back("a", "1.1", "1.2")
    assert bench.machine.stats(0.25).environments[0].draining == "a"
    assert granted(bench.wants("high", wish(9, 2))) == [("high", "b"), ("high", "a")]


def test_the_slots_of_a_lonely_task_are_not_counted_on() -> None:
    bench = Bench(workers=2, slots=1)
    bench.wants("lonely", wish(5, exclusive=True))
    bench.wants("low", wish(1))
    bench.wants("low", wish(1))
    assert bench.coordinators["lonely"].recalled == []
    bench.coordinators["lonely"].wants = []
    assert recalled(bench.says("lonely")) == ["lonely"]
    assert recalled(bench.wants("high", wish(9))) == ["low"]
