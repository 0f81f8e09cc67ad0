"""Locks against a plain model: queues, tokens and ends of leases, whoever comes, goes, dies or asks again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rayflow.core.locks.machine import (
    Change,
    Claimant,
    Lock,
    acquire,
    check,
    expire,
    release,
    release_all,
    renew,
    renew_all,
)
from rayflow.errors import LockLost, LockPermitsMismatch, LockUnavailable

NAMES = st.sampled_from(["a", "b", "c"])
EXECUTIONS = st.sampled_from(["e1", "e2", "e3", "e4"])
LIMITS = {"a": 1, "b": 2, "c": 3}
TTLS = st.sampled_from([1.0, 4.0, 20.0])


class Model:
    """What one lock should be: who waits in which order, who holds which token, until when leases last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.limit = 0
        self.lock: Lock | None = None
        self.queue: list[Claimant] = []
        self.held: dict[Claimant, int] = {}
        self.ends: dict[Claimant, float] = {}
        self.ttls: dict[Claimant, float] = {}
        self.tokens: list[int] = []
        self.dead_tokens: set[int] = set()
        #: All who ever asked.
        self.known: list[Claimant] = []

    def has(self, claimant: Claimant) -> bool:
        return claimant in self.held or claimant in self.queue

    def live(self, claimants: list[Claimant], now: float) -> list[Claimant]:
        return [one for one in claimants if self.ends.get(one, now) >= now]

    def fits_at_once(self, now: float) -> bool:
        return self.limit - len(self.live(list(self.held), now)) > len(self.live(self.queue, now))

    def expected_to_expire(self, now: float) -> list[Claimant]:
        """Who goes if the lock is looked at now."""
        late = [one for one in self.queue if self.ends.get(one, now) < now]
        waiting = len(self.queue) - len(late)
        free = self.limit - len(self.held)
        lapsed = [one for one in self.held if self.ends.get(one, now) < now]
        # Of two that expired at the same time the one that asked first goes first; its token is the lower one.
        lapsed.sort(key=lambda one: (self.ends[one], self.held[one]))
        return late + lapsed[: max(0, waiting - free)]

    def apply(self, change: Change) -> None:
        """Take over what a change says, and hold it to first come, first served and to rising tokens."""
        for claim in change.removed:
            one = claim.claimant
            if one in self.held:
                self.dead_tokens.add(self.held.pop(one))
            else:
                self.queue.remove(one)
            self.ends.pop(one, None)
            self.ttls.pop(one, None)
        for claim in change.granted:
            assert claim.claimant == self.queue.pop(0)
            assert claim.token > max(self.tokens, default=0)
            self.tokens.append(claim.token)
            self.held[claim.claimant] = claim.token
        self.lock = change.lock


class LocksModel(RuleBasedStateMachine):
    """Executions and scripts that ask, ask again, wait, withdraw, renew, end and die, under a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.models = {name: Model(name) for name in LIMITS}
        self.numbers = 0
        self.ended: set[str] = set()

    # --- asking ------------------------------------------------------------------------------------------------
    @rule(name=NAMES, execution=EXECUTIONS, wait=st.booleans())
    def an_execution_asks(self, *, name: str, execution: str, wait: bool) -> None:
        if execution not in self.ended:
            self.numbers += 1
            self.ask(name, Claimant(execution, self.numbers), LIMITS[name], None, wait=wait)

    @rule(name=NAMES, ttl=TTLS, wait=st.booleans())
    def a_script_asks(self, *, name: str, ttl: float, wait: bool) -> None:
        self.numbers += 1
        self.ask(name, Claimant(lease=f"l{self.numbers}"), LIMITS[name], ttl, wait=wait)

    @rule(name=NAMES, limit=st.integers(1, 3), script=st.booleans())
    def somebody_asks_with_another_limit(self, *, name: str, limit: int, script: bool) -> None:
        self.numbers += 1
        claimant = Claimant(lease=f"l{self.numbers}") if script else Claimant("e0", self.numbers)
        self.ask(name, claimant, limit, 4.0 if script else None, wait=True)

    @rule(name=NAMES, wait=st.booleans(), data=st.data())
    def somebody_asks_again(self, *, name: str, wait: bool, data: st.DataObject) -> None:
        model = self.models[name]
        if model.known:
            claimant = data.draw(st.sampled_from(model.known))
            if claimant.execution_id not in self.ended:
                self.ask(name, claimant, model.limit, 4.0 if claimant.lease else None, wait=wait)

    def ask(self, name: str, claimant: Claimant, limit: int, ttl: float | None, *, wait: bool) -> None:
        """Acquire, and compare with what has to become of it."""
        model, now = self.models[name], self.now
        before = model.lock
        in_use = bool(model.live([*model.held, *model.queue], now)) and limit != model.limit
        known = model.has(claimant) and limit == model.limit
        if in_use:
            with pytest.raises(LockPermitsMismatch) as caught:
                acquire(before, name, limit, claimant, now, ttl=ttl, wait=wait)
            assert (caught.value.limit, caught.value.asked) == (model.limit, limit)
            return
        full = claimant in model.queue if known else limit == model.limit and not model.fits_at_once(now)
        if full and not wait:
            with pytest.raises(LockUnavailable):
                acquire(before, name, limit, claimant, now, ttl=ttl, wait=False)
            return
        change = acquire(before, name, limit, claimant, now, ttl=ttl, wait=wait)
        if known:
            assert before is not None
            assert change == Change(before)
            return
        if limit != model.limit:
            self.everybody_goes(model, change)
            model.limit = limit
        self.joins(model, claimant, ttl, change)

    def everybody_goes(self, model: Model, change: Change) -> None:
        """Another limit can only be taken over when all who are left have expired; so they go before the claim."""
        everybody = {*model.held, *model.queue}
        assert {claim.claimant for claim in change.removed} == everybody
        model.apply(Change(change.lock, removed=change.removed))

    def joins(self, model: Model, claimant: Claimant, ttl: float | None, change: Change) -> None:
        at_once = model.fits_at_once(self.now)
        model.known.append(claimant)
        model.queue.append(claimant)
        if ttl is not None:
            model.ends[claimant], model.ttls[claimant] = self.now + ttl, ttl
        gone = [claim for claim in change.removed if model.has(claim.claimant)]
        assert [claim.claimant for claim in gone] == model.expected_to_expire(self.now)
        model.apply(Change(change.lock, change.granted, tuple(gone)))
        assert (claimant in model.held) == at_once
        assert model.has(claimant)

    # --- going -------------------------------------------------------------------------------------------------
    @rule(name=NAMES, data=st.data())
    def somebody_releases_or_withdraws(self, *, name: str, data: st.DataObject) -> None:
        model = self.models[name]
        if model.lock is not None and model.known:
            claimant = data.draw(st.sampled_from(model.known))
            change = release(model.lock, claimant)
            assert [claim.claimant for claim in change.removed] == [claimant] * model.has(claimant)
            assert change.removed or change == Change(model.lock)
            model.apply(change)

    @rule(execution=EXECUTIONS)
    def an_execution_ends(self, execution: str) -> None:
        self.ended.add(execution)
        locks = [model.lock for model in self.models.values() if model.lock is not None]
        touched = {
            model.name
            for model in self.models.values()
            if any(one.execution_id == execution for one in [*model.held, *model.queue])
        }
        changes = release_all(locks, execution)
        assert [change.lock.name for change in changes] == sorted(touched)
        for change in changes:
            assert {claim.execution_id for claim in change.removed} == {execution}
            self.models[change.lock.name].apply(change)

    # --- leases and time ---------------------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 100.0, -2.0, -50.0]))
    def the_clock_moves(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=NAMES)
    def the_store_looks_for_expired_leases(self, name: str) -> None:
        model = self.models[name]
        if model.lock is not None:
            expected = model.expected_to_expire(self.now)
            change = expire(model.lock, self.now)
            assert [claim.claimant for claim in change.removed] == expected
            model.apply(change)
            assert model.live(model.queue, self.now) == model.queue
            assert not model.queue or model.live(list(model.held), self.now) == list(model.held)

    @precondition(lambda self: any(one.lease for model in self.models.values() for one in model.known))
    @rule(ttl=TTLS, data=st.data())
    def a_script_renews(self, *, ttl: float, data: st.DataObject) -> None:
        leases = [(name, one) for name, model in self.models.items() for one in model.known if one.lease]
        name, claimant = data.draw(st.sampled_from(leases))
        model = self.models[name]
        assert model.lock is not None
        if not model.has(claimant):
            with pytest.raises(LockLost):
                renew(model.lock, claimant.lease, self.now, ttl)
            return
        model.apply(renew(model.lock, claimant.lease, self.now, ttl))
        model.ends[claimant], model.ttls[claimant] = self.now + ttl, ttl

    @rule()
    def the_writer_comes_back(self) -> None:
        for model in self.models.values():
            if model.lock is not None:
                model.apply(renew_all(model.lock, self.now))
                model.ends = {one: self.now + ttl for one, ttl in model.ttls.items()}

    # --- what always holds -------------------------------------------------------------------------------------
    @invariant()
    def each_lock_is_as_the_model_says(self) -> None:
        for model in self.models.values():
            if model.lock is not None:
                assert {claim.claimant: claim.token for claim in model.lock.holders} == model.held
                assert [claim.claimant for claim in model.lock.waiting] == model.queue
                ends = {claim.claimant: claim.expires_at for claim in model.lock.claims if claim.lease}
                assert ends == model.ends
                assert len(model.lock.claims) == len({claim.order for claim in model.lock.claims})
                assert (model.lock.limit, model.lock.last_token) == (model.limit, max(model.tokens, default=0))

    @invariant()
    def no_more_holders_than_permits_and_nobody_waits_for_a_free_one(self) -> None:
        for model in self.models.values():
            assert len(model.held) <= model.limit
            assert not model.queue or len(model.held) == model.limit

    @invariant()
    def tokens_of_those_who_hold_are_good_and_all_others_are_refused(self) -> None:
        for model in self.models.values():
            if model.lock is not None:
                assert {token for token in model.tokens if check(model.lock, token)} == set(model.held.values())
                assert not any(check(model.lock, token) for token in [0, *model.dead_tokens])

    @invariant()
    def what_has_ended_has_no_claims(self) -> None:
        for model in self.models.values():
            assert not self.ended & {one.execution_id for one in [*model.held, *model.queue]}


TestLocks: Any = LocksModel.TestCase
TestLocks.settings = settings(max_examples=100, stateful_step_count=50)
