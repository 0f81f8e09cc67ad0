"""Which limits an attempt at a step counts against, and what a cluster lacks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayflow.core.pool.protocol import Limit
from rayflow.definition.context import StepCall
from rayflow.definition.options import PoolConfig, RateLimit, StepOptions
from rayflow.errors import DefinitionError

#: Seconds that a start under a rate limit counts longer than its window: between the moment that a worker takes for
#: the start and the step's own first line lies what the operating system lets pass there.
START_JITTER = 0.03

#: Ray's names of what has a keyword of its own.
_RAY_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}


def limits_of(call: StepCall, pool: PoolConfig) -> tuple[Limit, ...]:
    """The limits of one call of a step, the pool's first.

    Args:
        call: the call; its ``concurrency_key`` may be a function of its arguments.
        pool: the pool that it goes to.

    Raises:
        DefinitionError: that function answers nothing.
        Exception: whatever that function raises.

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
        raise DefinitionError(
            f"the concurrency_key of step {call.name!r} answered None for these arguments; it has to name a key"
        )
    return f"key {found}"


def needs_of(options: StepOptions | PoolConfig) -> dict[str, float]:
    """What Ray has to reserve, by the names that Ray has for it.

    Example:
        >>> needs_of(StepOptions(num_gpus=1, resources={"disk": 2}))
        {'GPU': 1.0, 'disk': 2.0}
    """
    named = {ray: getattr(options, name) for name, ray in _RAY_NAMES.items()}
    return {name: float(amount) for name, amount in {**named, **(options.resources or {})}.items() if amount}


def lacking(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]], *, have: str = "have") -> str:
    """What no node has, in words; "" if a node has it all, or nobody counts resources.

    Args:
        needs: by resource.
        nodes: what each node has in all, or has left.
        have: the verb for that.

    Example:
        >>> lacking({"GPU": 1.0}, [{"CPU": 2.0}, {"CPU": 8.0}])
        'it needs 1 GPU, and no node has any; the nodes have 2 CPU | 8 CPU'
    """
    if not nodes or any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes):
        return ""
    short = {name: max(node.get(name, 0.0) for node in nodes) for name in needs}
    missing = [name for name, amount in needs.items() if short[name] < amount]
    if not missing:
        what = f"it needs {_listed(needs)} on one node, and no node has all of it"
    else:
        most = ", ".join(f"more than {_amount(name, short[name])}" if short[name] else "any" for name in missing)
        what = f"it needs {_listed({name: needs[name] for name in missing})}, and no node has {most}"
    told = [{name: n for name, n in node.items() if _worth_telling(name, needs)} for node in nodes[:5]]
    shown = " | ".join(_listed(node) for node in told)
    more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return f"{what}; the nodes {have} {shown}{more}"


def _worth_telling(name: str, needs: Mapping[str, float]) -> bool:
    return name in needs or name in {"CPU", "GPU"} or not (name.islower() or ":" in name)


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(_amount(name, amount) for name, amount in sorted(amounts.items()))


def _amount(name: str, amount: float) -> str:
    return f"{amount / 1e9:.3g} GB of memory" if name == "memory" else f"{amount:g} {name}"
