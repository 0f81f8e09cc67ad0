"""Slots on a bench: what their tests have a coordinator and its pool say."""

from __future__ import annotations

from rayflow.core.pool.protocol import Grant, Limit
from rayflow.core.pool.slots import Key, Report, SendBatch, Slots

Limits = tuple[Limit, ...]

KEY: Limits = (Limit("customer/5", 2),)
RATE: Limits = (Limit("model", 10, 1.0),)
BOTH: Limits = KEY + RATE


def key(number: int) -> Key:
    return ("e", number, 1)


def want(
    slots: Slots,
    *numbers: int,
    environment: str = "env",
    priority: int = 5,
    exclusive: bool = False,
    limits: Limits = (),
    now: float = 0.0,
) -> None:
    for number in numbers:
        slots.enqueue(
            key(number), "s", environment=environment, priority=priority, exclusive=exclusive, limits=limits, now=now
        )


def made(*waiting: int, limits: Limits = (), now: float = 0.0) -> Slots:
    """Slots of a coordinator for which these tasks wait."""
    slots = Slots()
    slots.accept_epoch(1)
    want(slots, *waiting, limits=limits, now=now)
    return slots


def grant(
    slots: Slots,
    number: int,
    *,
    environment: str = "env",
    exclusive: bool = False,
    limits: Limits = (),
    start_by: float | None = None,
    now: float = 0.0,
) -> None:
    """The pool's grant of that number in its present epoch. The token is "t" and the number, then the epoch's."""
    token = f"t{number}" if slots.epoch == 1 else f"t{number}.{slots.epoch}"
    slots.granted(Grant("c", number, token, f"w{number}", environment, 5, exclusive, limits, start_by), now)


def numbers(sends: list[SendBatch]) -> list[list[int]]:
    return [[number for _, number, _ in send.keys] for send in sends]


def plain(token: str, worker: str, *keys: Key) -> SendBatch:
    return SendBatch(token, worker, "env", exclusive=False, keys=keys, start_by=None, limited=False, rated=False)


def reported(slots: Slots) -> Report:
    """A report that has to be made."""
    report = slots.report()
    assert report is not None
    return report
