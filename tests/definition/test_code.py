from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import threading
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.code import PYTHON, CodeCache, CodeRef, TargetRef, by_value, reference, source_hash
from rayflow.definition.context import StepCall, Target
from tests.definition import agents
from tests.definition.agents import extract, extractor, length
from tests.definition.fake import FakeExecution

HERE = agents.__name__
quick = length.options(timeout=1)


@rf.workflow(version="7")
async def counted(text: str) -> int:
    return await length(text.split())


@pytest.fixture
def cache() -> CodeCache:
    return CodeCache()


def never(digest: str) -> bytes:
    raise AssertionError(f"blob {digest} was asked for")


def local_workflow(result: int = 1) -> rf.WorkflowFunction[[int], int]:
    """A workflow that can only travel by value, with two steps of one name."""

    @rf.step(name="same")
    def add(n: int) -> int:
        return n + result

    @rf.step(name="same")
    async def multiply(n: int) -> int:
        return n * 10

    @rf.workflow(id="local")
    async def local(n: int) -> int:
        return await multiply(await add.options(timeout=5)(n)) + await length(["imported"])

    return local


# --- references ---------------------------------------------------------------------------------------------
def test_a_reference_has_all_that_is_recorded() -> None:
    ref = reference(counted)
    assert ref == CodeRef("ref", __name__, "counted", version="7", source_sha256=source_hash(counted), python=PYTHON)
    assert ref.place == f"{__name__}:counted"
    assert reference(length) == CodeRef("ref", HERE, "length", source_sha256=source_hash(length))
    assert reference(local_workflow()) is None


def test_a_reference_survives_json() -> None:
    ref = reference(counted)
    assert ref is not None
    assert CodeRef.from_dict(json.loads(json.dumps(ref.to_dict()))) == ref


@pytest.mark.parametrize("changes", [{"kind": "url"}, {"extra": 1}])
def test_a_reference_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    data = {**CodeRef("ref", "m", "q").to_dict(), **changes}
    with pytest.raises(rf.IncompatibleVersion, match="was written by another rayflow"):
        CodeRef.from_dict(data)


def test_a_reference_loads_the_same_object_without_a_blob(cache: CodeCache) -> None:
    ref = reference(counted)
    assert ref is not None
    assert cache.load(ref, never) is counted
    assert cache.resolve(ref, "", never) is counted


# --- values -------------------------------------------------------------------------------------------------
def test_a_value_is_loaded_once(cache: CodeCache) -> None:
    ref, blob = by_value(local_workflow())
    asked: list[str] = []

    def fetch(digest: str) -> bytes:
        asked.append(digest)
        return blob

    first = cache.load(ref, fetch)
    assert (first.id, ref.kind, ref.digest) == ("local", "value", hashlib.sha256(blob).hexdigest())
    assert (ref.module, ref.qualname) == (__name__, "local_workflow.<locals>.local")
    assert cache.load(ref, fetch) is first
    assert asked == [ref.digest]


def test_threads_load_one_object(cache: CodeCache) -> None:
    ref, blob = by_value(local_workflow())
    together = threading.Barrier(4)
    found: list[Any] = []

    def fetch(digest: str) -> bytes:
        together.wait(timeout=30)  # all four have missed the cache before any of them fills it
        return blob

    threads = [threading.Thread(target=lambda: found.append(cache.load(ref, fetch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(obj) for obj in found}) == 1


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache, blobs = CodeCache(limit=2), dict[str, bytes]()
    refs = []
    for n in range(3):
        ref, blob = by_value(local_workflow(n))
        blobs[ref.digest] = blob
        refs.append(ref)
    first, second = (cache.load(ref, blobs.__getitem__) for ref in refs[:2])
    assert cache.load(refs[0], never) is first
    cache.load(refs[2], blobs.__getitem__)
    assert cache.load(refs[0], never) is first
    assert cache.load(refs[1], blobs.__getitem__) is not second


def test_another_python_is_refused_by_name(cache: CodeCache) -> None:
    ref, _ = by_value(local_workflow())
    other = dataclasses.replace(ref, python="3.10")
    with pytest.raises(rf.IncompatibleVersion, match=rf"stored by value by Python 3.10, and this is Python {PYTHON}"):
        cache.load(other, never)
    # What is imported is compiled here: any Python will do.
    imported = dataclasses.replace(CodeRef("ref", HERE, "length"), python="3.10")
    assert cache.load(imported, never) is length


def test_a_damaged_blob_is_refused(cache: CodeCache) -> None:
    ref, blob = by_value(local_workflow())
    with pytest.raises(rf.StorageError, match=f"blob {ref.digest}, the code of .* is not what was stored"):
        cache.load(ref, lambda _: blob + b"x")


def test_a_blob_that_cannot_be_unpickled_here_says_why(cache: CodeCache) -> None:
    def stored(blob: bytes) -> CodeRef:
        return CodeRef("value", "__main__", "flow", digest=hashlib.sha256(blob).hexdigest())

    absent, changed = b"cgone_away\nrun\n.", b"c" + HERE.encode() + b"\ngone\n."
    message = r"__main__:flow needs module 'gone_away', which cannot be imported here \(.*\); sys.path is \["
    with pytest.raises(rf.IncompatibleVersion, match=message):
        cache.load(stored(absent), lambda _: absent)
    with pytest.raises(rf.IncompatibleVersion, match=r"__main__:flow cannot be unpickled here: AttributeError: .*gone"):
        cache.load(stored(changed), lambda _: changed)


def test_what_cannot_be_pickled_is_refused() -> None:
    lock = threading.Lock()

    @rf.step
    def locked() -> None:
        with lock:
            pass

    message = "<step 'locked' .* cannot be carried to another process .*lock.*make such an object inside the step"
    with pytest.raises(rf.DefinitionError, match=message):
        by_value(locked)


def test_a_declared_workflow_travels_by_value(cache: CodeCache) -> None:
    workflow = rf.Workflow("w", version="3").add_step(extract())
    ref, blob = by_value(workflow)
    assert (ref.module, ref.qualname, ref.version) == (__name__, "w", "3")
    assert cache.resolve(ref, "extract/agent", lambda _: blob) is extractor
    message = "workflow 'w' .* has no agent at 'gone/agent'"
    with pytest.raises(rf.IncompatibleVersion, match=message):
        cache.resolve(ref, "gone/agent", never)


# --- targets ------------------------------------------------------------------------------------------------
def issued(workflow: Any, *args: Any) -> tuple[Any, list[StepCall]]:
    execution = FakeExecution()
    return execution.run(lambda: workflow.begin(args, {})), execution.calls


def test_targets_that_can_be_imported_are_references(cache: CodeCache) -> None:
    plain = TargetRef(CodeRef("ref", HERE, "length", source_sha256=source_hash(length)), "")
    assert cache.target_ref(Target(length)) == plain
    assert cache.target_ref(Target(length.options(timeout=3))) == plain
    assert cache.target_ref(Target(rf.step(length.fn, name="renamed"))).ref.place == f"{HERE}:length"
    assert cache.resolve(plain.ref, plain.part, never) is length


def test_steps_of_a_blob_are_found_in_it_by_number(cache: CodeCache) -> None:
    ref, blob = by_value(local_workflow())
    result, calls = issued(cache.load(ref, lambda _: blob), 3)
    assert result == 41
    assert [call.name for call in calls] == ["same", "same", "length"]
    add, multiply, imported = (cache.target_ref(call.target, within=ref) for call in calls)
    assert add.ref == multiply.ref == ref
    assert (add.part != multiply.part, add.blob, multiply.blob) == (True, None, None)
    assert imported.ref.place == f"{HERE}:length"
    worker = CodeCache()
    assert worker.resolve(add.ref, add.part, lambda _: blob).fn(3) == 4
    assert asyncio.run(worker.resolve(multiply.ref, multiply.part, never).fn(4)) == 40


def test_an_agent_of_a_declared_workflow_inside_a_blob_is_found(cache: CodeCache) -> None:
    inner = rf.Workflow("inner").add_step(extract())

    @rf.workflow(id="outer")
    async def outer(text: str) -> dict[str, Any]:
        return await inner.run({"text": text})

    ref, blob = by_value(outer)
    result, (call,) = issued(cache.load(ref, lambda _: blob), "a b")
    assert result["words"] == ["a", "b"]
    target = cache.target_ref(call.target, within=ref)
    assert target == TargetRef(ref, "@1/extract/agent")
    assert CodeCache().resolve(ref, target.part, lambda _: blob) is extractor


def test_other_steps_travel_as_values_of_their_own(cache: CodeCache) -> None:
    ref, _ = by_value(local_workflow())
    step = rf.step(lambda n: n + 100, name="alone")
    target = cache.target_ref(Target(step), within=ref)
    assert target.ref.kind == "value"
    assert target.ref.digest != ref.digest
    assert target.blob is not None
    assert cache.target_ref(Target(step)) == target
    found = CodeCache().resolve(target.ref, target.part, lambda _: target.blob or b"")
    assert (found.name, found.fn(1)) == ("alone", 101)


def test_parts_that_are_not_there_are_refused(cache: CodeCache) -> None:
    ref, blob = by_value(local_workflow())
    with pytest.raises(rf.IncompatibleVersion, match="has 3 definitions, and no part '@3'"):
        cache.resolve(ref, "@3", lambda _: blob)
    with pytest.raises(rf.IncompatibleVersion, match=r"is <step 'length' .*>, which has no part '@1'"):
        cache.resolve(CodeRef("ref", HERE, "length"), "@1", never)


# --- source hashes ------------------------------------------------------------------------------------------
def test_the_source_hash_follows_the_source() -> None:
    def one(n: int) -> int:
        return n + 1

    def two(n: int) -> int:
        return n + 2

    hashes = [source_hash(rf.step(one)), source_hash(rf.step(two)), source_hash(rf.step(one, timeout=3))]
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2]
    assert len(hashes[0]) == 64
    assert source_hash(rf.step(len)) == ""


def declared(output_key: str = "words", agent: Any = extractor, **options: Any) -> rf.Workflow:
    step = rf.SequentialStep("s", agent=agent, input=lambda s: s["text"], output_key=output_key, **options)
    parallel = rf.ParallelStep("p", agents=[agents.sentiment], input=list, output_keys=["mood"])
    return rf.Workflow("w").add_step(rf.RetryStep(step, max_retries=1)).add_step(parallel)


def test_the_source_hash_of_a_declared_workflow_follows_its_steps() -> None:
    class Mine:
        def run(self, value: Any) -> Any:
            return value

    variants = [
        declared(),
        declared("other"),
        declared(agent=agents.broken),
        declared(agent=Mine()),
        declared(agent=length),
        declared(timeout=3),
        rf.Workflow("w"),
    ]
    assert len({source_hash(workflow) for workflow in variants}) == len(variants)
    assert source_hash(declared()) == source_hash(declared())
    assert source_hash(declared(agent=Mine())) == source_hash(declared(agent=Mine()))
