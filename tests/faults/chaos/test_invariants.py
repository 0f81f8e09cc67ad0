"""Each invariant holds of a run in which all is well, and catches the ledger or journal that was doctored for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.chaos import worlds
from tests.faults.chaos.evidence import Evidence, Outcome, Unanswered
from tests.faults.chaos.expected import Expected
from tests.faults.chaos.invariants import verdicts
from tests.faults.chaos.worlds import OTHER, WORKER, T, begin, chain, end, step, struck, with_lines, with_outcome

NAME = "chain-0000"


def problems(evidence: Evidence) -> dict[str, str]:
    """What is wrong, by the invariants' numbers."""
    return {verdict.name[0]: "; ".join(verdict.problems) for verdict in verdicts(evidence) if verdict.problems}


@pytest.mark.parametrize("evidence", [chain(), worlds.signals(), worlds.locked()])
def test_where_all_is_well_nothing_is_found(evidence: Evidence) -> None:
    assert problems(evidence) == {}


# --- 1, 2 ---------------------------------------------------------------------------------------------------
def test_an_accepted_start_that_is_lost_is_seen() -> None:
    assert problems(replace(chain(), outcomes={})) == {"1": f"{NAME} was accepted and is not there"}


@pytest.mark.parametrize("status", ["pending", "running", "paused"])
def test_one_that_does_not_end_is_seen(status: str) -> None:
    found = problems(with_outcome(chain(), status=status, result=None, failure="why"))
    assert found == {"1": f"{NAME} is {status}: why"}


def test_one_that_nobody_heard_the_start_of_has_to_end_as_well() -> None:
    evidence = chain()
    outcomes = {**evidence.outcomes, "unheard": Outcome("unheard", "running")}
    assert problems(replace(evidence, outcomes=outcomes)) == {"1": "unheard is running"}


def test_a_wrong_result_is_seen() -> None:
    assert problems(with_outcome(chain(), result=43)) == {"2": f"{NAME} came to 43, not to 42"}


def test_an_unplanned_failure_and_an_unplanned_success_are_seen() -> None:
    failed = with_outcome(chain(), status="failed", result=None, failure="E: oh")
    assert problems(failed) == {"2": f"{NAME} is failed: E: oh"}
    planned = replace(chain(), expected={NAME: Expected("saga", None, 3, failure="as planned")})
    assert "was to fail: as planned" in problems(planned)["2"]
    assert problems(with_outcome(planned, status="failed", result=None, failure="E: as planned")) == {}


def test_a_timer_that_woke_too_early_is_seen() -> None:
    assert problems(with_outcome(chain(), result={"value": 42, "early": True})) == {"2": f"{NAME} was woken too early"}


def test_a_result_that_is_recorded_twice_or_not_at_all_is_seen() -> None:
    recorded = chain().outcomes[NAME].recorded
    for doctored in (recorded[:2], (*recorded, replace(recorded[2], position=9))):
        assert f"has {len(doctored)} recorded steps, not 3" in problems(with_outcome(chain(), recorded=doctored))["2"]


# --- 3 ------------------------------------------------------------------------------------------------------
def test_a_recorded_step_without_its_effect_is_seen() -> None:
    evidence = chain()
    for lines in (evidence.lines[2:], evidence.lines[:5]):
        found = problems(replace(evidence, lines=lines))
        assert "is recorded, and its effect is not in the ledger" in found["3"]


def test_an_answer_of_another_step_is_seen() -> None:
    recorded = chain().outcomes[NAME].recorded
    doctored = (replace(recorded[0], nonce=recorded[1].nonce), *recorded[1:])
    assert (
        "step 1 (work) of chain-0000 is recorded with the answer of"
        in problems(with_outcome(chain(), recorded=doctored))["3"]
    )


def test_a_recorded_step_that_begins_again_is_seen() -> None:
    again = begin(NAME, 3, 4.0, attempt=2, epoch=2, pid=OTHER)
    # Also where a blow would explain a repeat of what was not recorded.
    evidence = replace(with_lines(chain(), 6, again, end(again, 4.1)), struck=[struck("kill coordinator", 3.55)])
    assert problems(evidence) == {"3": "step 3 (work) of chain-0000 was begun again 0.400 s after it was recorded"}


def test_a_step_that_begins_again_after_one_that_relied_on_it_is_seen_without_the_journal() -> None:
    again = begin(NAME, 1, 2.7, attempt=2, pid=OTHER)
    evidence = with_outcome(with_lines(chain(), 4, again, end(again, 2.8)), recorded=())
    evidence = replace(evidence, struck=[struck("kill worker", 1.55)])
    assert problems(evidence)["3"] == "step 1 of chain-0000 began anew although a later one had begun"


def test_a_stale_begin_of_a_process_that_goes_on_does_no_harm_as_long_as_it_does_not_count() -> None:
    stale = begin(NAME, 1, 4.0, nonce="stale")
    evidence = with_lines(chain(pid=OTHER), 6, stale, end(stale, 4.1))
    assert set(problems(evidence)) == {"3", "4"}
    assert problems(replace(evidence, struck=[struck("stop worker", 0.9, until=T + 3.9)])) == {}


def test_a_stale_begin_for_a_coordinator_that_has_a_successor_does_no_harm() -> None:
    evidence = taken_over()
    stale = begin(NAME, 2, 3.7, epoch=1, nonce="stale")
    assert problems(with_lines(evidence, 8, stale, end(stale, 3.8))) == {}


def test_what_a_fork_took_over_was_done_by_its_origin() -> None:
    evidence = chain()
    fork = Outcome("fork", "completed", result=42, origin=NAME, recorded=evidence.outcomes[NAME].recorded)
    whole = replace(evidence, outcomes={**evidence.outcomes, "fork": fork})
    assert problems(whole) == {}
    assert set(problems(replace(whole, outcomes={**evidence.outcomes, "fork": replace(fork, origin="")}))) == {"3"}


# --- 4, 6 ---------------------------------------------------------------------------------------------------
def taken_over(second: int = 2) -> Evidence:
    """A chain whose coordinator is killed during its second step; the third is of its successor, too."""
    one, two = begin(NAME, 1, 1.0), begin(NAME, 2, 2.0)
    again, three = begin(NAME, 2, 3.0, epoch=2, pid=OTHER), begin(NAME, 3, 3.5, epoch=second, pid=OTHER)
    lines = [one, end(one, 1.5), two, end(two, 2.5), again, end(again, 3.1), three, end(three, 3.6)]
    recorded = (step(one, 2, 1.6), step(again, 3, 3.2), step(three, 4, 3.65))
    outcome = Outcome(NAME, "completed", result=42, recorded=recorded)
    return replace(chain(), lines=lines, outcomes={NAME: outcome}, struck=[struck("kill coordinator", 2.2)])


def test_what_was_in_flight_at_a_kill_may_be_begun_again() -> None:
    assert problems(taken_over()) == {}


UNEXPLAINED = "step 2 of chain-0000 was begun again although nothing was done to it"


def test_a_repeat_that_no_blow_explains_is_seen() -> None:
    evidence = taken_over()
    for blow in (
        struck("kill coordinator", 2.2, drove={"another": 1}),
        struck("kill coordinator", 2.2, drove={NAME: 2}),
        struck("kill coordinator", 3.3),
        struck("kill worker", 2.2, pid=OTHER),
        struck("kill worker", 8.0),
        struck("stop persistence", 2.2),
    ):
        assert problems(replace(evidence, struck=[blow])) == {"4": UNEXPLAINED}
    assert problems(replace(evidence, struck=[])) == {"4": UNEXPLAINED}


def test_a_blow_explains_the_repeats_of_the_coordinator_by_its_name() -> None:
    evidence = taken_over()
    named = replace(evidence, lines=[replace(line, coordinator=f"c{line.epoch}") for line in evidence.lines])
    for names, found in ((["c1"], {}), (["c2"], {"4": UNEXPLAINED})):
        # What it drove was read a moment before: by its name all of it is known.
        blow = struck("kill coordinator", 2.2, drove={}, coordinators=names)
        assert problems(replace(named, struck=[blow])) == found


def test_a_lost_node_explains_what_ran_there_and_what_was_driven_from_there() -> None:
    evidence = taken_over()
    for blow in (
        struck("kill node", 2.2, pid=99, on=(WORKER,)),
        struck("kill node", 2.2, pid=99, drove={NAME: 1}),
        struck("stop node", 1.0, pid=99, on=(WORKER,), until=T + 2.9),
    ):
        assert problems(replace(evidence, struck=[blow])) == {}
    assert problems(replace(evidence, struck=[struck("kill node", 2.2, pid=99, on=(98,))])) == {"4": UNEXPLAINED}


def waited(seconds: float) -> Evidence:
    """The same, but the coordinator was killed so long after the end of its second step."""
    evidence = taken_over()
    early = [replace(line, at=line.at - seconds) for line in evidence.lines[:4]]
    one, *recorded = evidence.outcomes[NAME].recorded
    outcome = replace(evidence.outcomes[NAME], recorded=(replace(one, at=one.at - seconds), *recorded))
    return replace(evidence, lines=[*early, *evidence.lines[4:]], outcomes={NAME: outcome})


def test_an_answer_may_wait_for_its_commit_as_long_as_nothing_later_is_durable() -> None:
    evidence = waited(60.0)
    assert problems(evidence) == {}
    # A step beside it that was begun long after, and recorded.
    other = begin(NAME, 4, -30.0)
    later = step(other, 3, -29.0)
    recorded = evidence.outcomes[NAME].recorded
    overtaken = with_outcome(evidence, recorded=(recorded[0], later, *recorded[1:]))
    overtaken = with_lines(overtaken, 4, other, end(other, -29.5))
    unordered = replace(overtaken, expected={NAME: Expected("fan", 42, 4, ordered=False)})
    assert problems(unordered) == {"4": UNEXPLAINED}


def test_a_blow_that_a_coordinator_got_over_explains_nothing_any_more() -> None:
    evidence = taken_over()
    long_ago = struck("stop coordinator", -30.0, until=T - 28.0)
    assert problems(replace(evidence, struck=[long_ago])) == {"4": UNEXPLAINED}
    # But it does where nothing of it is recorded since.
    late = struck("stop coordinator", 1.7, until=T + 2.9)
    assert problems(replace(evidence, struck=[late])) == {}


def test_a_call_that_was_failed_explains_what_its_own_caller_had_in_flight() -> None:
    two, again = begin(NAME, 2, 2.0), begin(NAME, 2, 3.0, attempt=2, pid=OTHER)
    evidence = chain()
    lines = [*evidence.lines[:2], two, end(two, 2.5), again, end(again, 3.1)]
    lines = [replace(line, coordinator="c") for line in lines]
    one, *_ = evidence.outcomes[NAME].recorded
    outcome = Outcome(NAME, "completed", result=42, recorded=(one, step(again, 3, 3.2)))
    evidence = Evidence({NAME: Expected("chain", 42, 2)}, lines, {NAME: outcome}, slots=2, callers={"c": 21})
    assert problems(evidence) == {"4": UNEXPLAINED}
    for call, found in (
        (Unanswered(T + 2.0, 21, "response"), {}),
        (Unanswered(T + 2.0, 22, "response"), {"4": UNEXPLAINED}),
        (Unanswered(T + 8.0, 21, "request"), {"4": UNEXPLAINED}),
        (Unanswered(T - 8.0, 21, "request"), {"4": UNEXPLAINED}),
    ):
        assert problems(replace(evidence, unanswered=[call])) == found


def test_more_repeats_than_blows_explain_are_seen() -> None:
    evidence = replace(taken_over(), slots=0)
    assert problems(evidence) == {"4": "1 repeats are more than 1 blows and failed calls explain, with 0 slots"}


def test_an_answer_of_a_fenced_epoch_is_seen() -> None:
    assert "has an answer of epoch 1, recorded after one of 2" in problems(taken_over(second=1))["4"]


def test_an_answer_that_is_recorded_while_a_newer_coordinator_is_at_work_is_seen() -> None:
    evidence = taken_over()
    old = evidence.by_nonce[f"{NAME}/2/1/1"][1]
    recorded = list(evidence.outcomes[NAME].recorded)
    recorded[1] = step(old, 3, 3.05)
    doctored = with_outcome(evidence, recorded=tuple(recorded))
    assert "has an answer of epoch 1, recorded when a newer one was at work" in problems(doctored)["4"]


def test_a_coordinator_that_goes_on_beside_its_successor_is_seen() -> None:
    stale = [begin(NAME, seq, 3.65 + seq / 100, epoch=1, nonce=f"stale/{seq}", pid=OTHER) for seq in (2, 3)]
    evidence = with_lines(taken_over(), 8, *stale)
    words = "chain-0000 was driven on at epoch 1 although it had a newer coordinator: 2 steps"
    assert words in problems(evidence)["4"]
    assert words not in problems(with_lines(taken_over(), 8, stale[0])).get("4", "")


def test_a_planned_failure_explains_the_next_attempt() -> None:
    first, second = begin(NAME, 1, 1.0), begin(NAME, 1, 2.0, attempt=2)
    lines = [first, end(first, 1.1, "failed"), second, end(second, 2.1)]
    outcome = Outcome(NAME, "completed", result=42, recorded=(step(second, 2, 2.2),))
    evidence = Evidence({NAME: Expected("chain", 42, 1)}, lines, {NAME: outcome})
    assert problems(evidence) == {}


def test_a_step_in_two_places_at_once_is_seen() -> None:
    other = begin(NAME, 2, 2.2, attempt=2, pid=OTHER, nonce="other")
    evidence = with_lines(chain(), 3, other, end(other, 2.3))
    found = problems(evidence)
    assert found["6"] == "step 2 of chain-0000 ran twice at once: in 11 at epoch 1 and in 12 at epoch 1"
    assert problems(replace(evidence, struck=[struck("kill worker", 2.1)])) == {}
    assert set(problems(replace(evidence, struck=[struck("kill worker", 2.1, pid=OTHER)]))) == {"4", "6"}


# --- 5 ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([[0, 0], [1, 0], [1, 1]], "did not receive [(0, 1)]"),
        ([[0, 0], [1, 0], [1, 1], [0, 1], [0, 1]], "more than once: [(0, 1)]"),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], "those of sender 1 in the order [1, 0]"),
        ([[0, 0], [1, 0], [1, 1], [0, 1], [7, 7]], "did [(7, 7)]"),
    ],
)
def test_a_signal_lost_doubled_disordered_or_made_up_is_seen(items: list[list[int]], words: str) -> None:
    doctored = with_outcome(worlds.signals(), result={"value": 42, "items": items})
    assert words in problems(doctored)["5"]


# --- 7 ------------------------------------------------------------------------------------------------------
def test_two_holders_of_one_lock_are_seen() -> None:
    evidence = worlds.locked()
    first, first_end, second, second_end = evidence.lines
    doctored = replace(evidence, lines=[first, second, first_end, second_end])
    assert problems(doctored) == {"7": "l was held by guard-1 and guard-2 at once"}


def test_a_token_that_does_not_rise_is_seen() -> None:
    evidence = worlds.locked()
    doctored = replace(evidence, lines=[replace(line, token=1) for line in evidence.lines])
    assert problems(doctored) == {"7": "l was granted to guard-2 with token 1 after 1"}


@pytest.mark.parametrize(
    ("started", "words"), [(["t@1"], "missing ['t@2']"), (["t@1", "t@2", "t@3"], "unasked ['t@3']")]
)
def test_a_due_time_without_its_start_or_a_start_without_its_due_time_is_seen(started: list[str], words: str) -> None:
    outcomes = {name: Outcome(name, "completed", schedule="t") for name in started}
    assert words in problems(Evidence({}, [], outcomes, dues={"t": ["t@1", "t@2"]}))["7"]


def test_what_was_due_before_there_was_a_schedule_need_not_be_started() -> None:
    outcomes = {"t@2": Outcome("t@2", "completed", schedule="t")}
    evidence = Evidence({}, [], outcomes, dues={"t": ["t@1", "t@2", "t@3"]})
    assert "missing ['t@1', 't@3']" in problems(evidence)["7"]
    assert "missing ['t@3']" in problems(replace(evidence, early={"t@1"}))["7"]


# --- 8 ------------------------------------------------------------------------------------------------------
def test_what_is_left_is_seen() -> None:
    evidence = replace(chain(), locks=["l is claimed"], left=["process 7"], gave_up=["nothing went on"])
    assert problems(evidence) == {"8": "lock l is claimed; process 7; nothing went on"}
