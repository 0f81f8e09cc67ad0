"""Code that one process recorded, another coordinates and a third runs: real processes, for scripts and modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.definition.code import CodeCache, CodeRef

ROOT = Path(__file__).parents[2]

SCRIPT = '''
import json, sys
from pathlib import Path
from pydantic import BaseModel
import rayflow as rf
from library import clean
from rayflow.definition.code import by_value, reference

class Report(BaseModel):
    words: int

@rf.step
async def count(text: str) -> Report:
    """Counts."""
    return Report(words=len(text.split()) + OFFSET)

OFFSET = 100
gently = clean.options(timeout=3)

@rf.workflow
async def report(text: str) -> Report:
    return await count(await gently(text))

assert reference(report) is reference(count) is reference(gently) is None
ref, blob = by_value(report)
folder = Path(sys.argv[1])
(folder / ref.digest).write_bytes(blob)
(folder / "ref.json").write_text(json.dumps(ref.to_dict()))
'''

LIBRARY = """
import threading
import rayflow as rf
lock = threading.Lock()   # cannot be pickled: whoever takes this module along fails

@rf.step
def clean(text: str) -> str:
    with lock:
        return text.replace("-", " ")

@rf.agent
def loud(text: str) -> str:
    return text.upper()

flow = rf.Workflow("flow").add_step(
    rf.SequentialStep("shout", agent=loud, input=lambda s: s["text"], output_key="loud"))
"""

COORDINATOR = """
import asyncio, json, sys
from pathlib import Path
from rayflow.definition.code import CodeCache, CodeRef
folder = Path(sys.argv[1])
cache, ref = CodeCache(), CodeRef.from_dict(json.loads((folder / "ref.json").read_text()))
fetch = lambda digest: (folder / digest).read_bytes()
sent = []

class Loop(asyncio.SelectorEventLoop):
    execution = None

class Execution:
    async def call(self, call):
        target = cache.target_ref(call.target, within=ref)
        if target.blob is not None:
            (folder / target.ref.digest).write_bytes(target.blob)
        sent.append([target.ref.to_dict(), target.part, call.args, call.options.timeout, call.name])
        return "a b c"

workflow = cache.load(ref, fetch)
loop = Loop()
loop.execution = Execution()
loop.run_until_complete(workflow.begin(("a-b",), {}))
loop.close()
print(json.dumps(sent))
"""

WORKER = """
import asyncio, inspect, json, sys
from pathlib import Path
from rayflow.definition.code import CodeCache, CodeRef
folder = Path(sys.argv[1])
cache = CodeCache()
answers = []
for ref, part, args, *_ in json.loads(sys.argv[2]):
    step = cache.resolve(CodeRef.from_dict(ref), part, lambda digest: (folder / digest).read_bytes())
    answer = step.fn(*args)
    answer = asyncio.run(answer) if inspect.isawaitable(answer) else answer
    answers.append([step.name, repr(answer), type(answer) is step.returns])
print(json.dumps(answers))
"""


def python(*arguments: str, path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "library.py").write_text(LIBRARY)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def test_a_script_is_loaded_by_a_coordinator_and_its_steps_by_a_worker(folder: Path) -> None:
    python(str(folder / "script.py"), str(folder), path=folder)
    sent = json.loads(python("-c", COORDINATOR, str(folder), path=folder))
    clean, count = sent
    assert (clean[0]["kind"], clean[0]["module"], clean[0]["qualname"], clean[1]) == ("ref", "library", "clean", "")
    assert clean[3:] == [3.0, "clean"]
    assert (count[0]["kind"], count[0]["module"], count[1][0], count[4]) == ("value", "__main__", "@", "count")
    answers = json.loads(python("-c", WORKER, str(folder), json.dumps(sent), path=folder))
    assert answers == [["clean", "'a b'", True], ["count", "Report(words=103)", True]]


def test_a_library_that_is_not_there_is_named(folder: Path) -> None:
    python(str(folder / "script.py"), str(folder), path=folder)
    ref = CodeRef.from_dict(json.loads((folder / "ref.json").read_text()))
    with pytest.raises(rf.IncompatibleVersion, match="cannot import module 'library', which holds 'clean'"):
        CodeCache().load(ref, lambda digest: (folder / digest).read_bytes())


def test_a_module_is_loaded_by_reference_in_another_process(folder: Path) -> None:
    program = """
import json, library
from rayflow.definition.code import CodeCache, reference
from rayflow.definition.context import Target
refs = [reference(x) for x in (library.clean, library.flow, library.loud)]
print(json.dumps([[r.to_dict(), part] for r, part in zip(refs, ("", "shout/agent", ""))]))
"""
    wanted = python("-c", program, path=folder)
    loader = """
import json, sys
from rayflow.definition.code import CodeCache, CodeRef, source_hash
cache = CodeCache()
for data, part in json.loads(sys.argv[1]):
    ref = CodeRef.from_dict(data)
    print(cache.resolve(ref, part, None).fn.__name__, source_hash(cache.load(ref, None)) == ref.source_sha256)
"""
    assert python("-c", loader, wanted, path=folder).split() == ["clean", "True", "loud", "True", "loud", "True"]
