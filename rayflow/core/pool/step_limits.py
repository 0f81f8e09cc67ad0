"""Limits and resources of a step: which limits an attempt counts against, and what the cluster lacks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayflow.core.pool.protocol import Limit
from rayflow.definition.context import StepCall
from rayflow.definition.options import PoolConfig, RateLimit, StepOptions
from rayflow.errors import InvalidArgument

#: Seconds added to the window of a rate limit: the operating system may delay the step's first line by so much after
#: the moment that the worker records as the start.
START_JITTER = 0.03

#: Ray's names of the resources that have a separate option.
_RAY_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}


def limits_of(call: StepCall, pool: PoolConfig) -> tuple[Limit, ...]:
    """Return the limits of one call of a step, the pool's first.

    Args:
        call: the call; its ``concurrency_key`` may be a function of the call's arguments.
        pool: the call's pool.

    Raises:
        InvalidArgument: the ``concurrency_key`` function returned None.
        Exception: any exception of that function.

    Example:
        >>> from rayflow.definition.context import Target
        >>> call = StepCall(
        ...     "mail", Target(None), ("ann",), options=StepOptions(concurrency_limit=2, concurrency_key=str)
        ... )
        >>> limits_of(call, PoolConfig())
        (Limit(name='key ann', count=2, per=0.0),)
    """
    options = call.options
    found = []
    if pool.rate_limit is not None:
        found.append(_rate("rate", pool.rate_limit))
    if options.rate_limit is not None:
        found.append(_rate(f"rate {call.name}", options.rate_limit))
    if options.concurrency_limit is not None:
        found.append(Limit(_key_of(call), options.concurrency_limit))
    return tuple(found)


def _rate(name: str, rate: RateLimit) -> Limit:
    return Limit(name, rate.count, rate.per + START_JITTER)


def _key_of(call: StepCall) -> str:
    key = call.options.concurrency_key
    if key is None:
        return f"step {call.name}"
    found = key if isinstance(key, str) else key(*call.args, **call.kwargs)
    if found is None:
        raise InvalidArgument(
            f"concurrency_key of step {call.name!r} returned None for these arguments; it must return a key"
        )
    return f"key {found}"


def resource_needs(options: StepOptions | PoolConfig) -> dict[str, float]:
    """Return the resources to reserve, by Ray's names.

    Example:
        >>> resource_needs(StepOptions(num_gpus=1, resources={"disk": 2}))
        {'GPU': 1.0, 'disk': 2.0}
    """
    named = {ray: getattr(options, name) for name, ray in _RAY_NAMES.items()}
    return {name: float(amount) for name, amount in {**named, **(options.resources or {})}.items() if amount}


def missing_resources(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]], *, have: str = "have") -> str:
    """Return the resources that no node has, as text; "" if a node has all of them, or if ``nodes`` is empty.

    Args:
        needs: needed amounts, by resource.
        nodes: total or free amounts of each node.
        have: verb of the text: "have" for total amounts, "have left" for free ones.

    Example:
        >>> missing_resources({"GPU": 1.0}, [{"CPU": 2.0}, {"CPU": 8.0}])
        'it needs 1 GPU, and no node has any; the nodes have 2 CPU | 8 CPU'
    """
    if not nodes or any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes):
        return ""
    largest = {name: max(node.get(name, 0.0) for node in nodes) for name in needs}
    missing = [name for name, amount in needs.items() if largest[name] < amount]
    if not missing:
        what = f"it needs {_listed(needs)} on one node, and no node has all of it"
    else:
        most = ", ".join(f"more than {_amount(name, largest[name])}" if largest[name] else "any" for name in missing)
        what = f"it needs {_listed({name: needs[name] for name in missing})}, and no node has {most}"
    shown = " | ".join(_listed({name: n for name, n in node.items() if _is_shown(name, needs)}) for node in nodes[:5])
    more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return f"{what}; the nodes {have} {shown}{more}"


def _is_shown(name: str, needs: Mapping[str, float]) -> bool:
    return name in needs or name in {"CPU", "GPU"} or not (name.islower() or ":" in name)


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(_amount(name, amount) for name, amount in sorted(amounts.items()))


def _amount(name: str, amount: float) -> str:
    return f"{amount / 1e9:.3g} GB of memory" if name == "memory" else f"{amount:g} {name}"
