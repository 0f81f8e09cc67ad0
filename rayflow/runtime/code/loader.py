"""Loads the code of an execution, and makes sure that it is the one that it was started with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import PYTHON, CodeCache, CodeRef, source_hash
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import CodecError, CorruptRecord, IncompatibleVersion, RayflowError
from rayflow.runtime.code.change_detector import CodeChangeDetector
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import check_payload, code_of, options_of
from rayflow.storage.model import ExecutionRecord

Fetch = Callable[[str], bytes]


class CodeSource(NamedTuple):
    """Access of an execution to code and to what its code reads.

    Args:
        cache: loads code.
        fetch: returns a blob of the store, by its digest.
        detector: compares the code that is loaded with that of the start.
        refer: makes references to the code of children, storing that where it has to.
        fingerprint: returns that of a workflow's code here, given the execution's own.
        read: returns the payload of a large value of an execution.
    """

    cache: CodeCache
    fetch: Fetch
    detector: CodeChangeDetector
    refer: Callable[[WorkflowDefinition], CodeRef]
    fingerprint: Callable[[str, CodeRef], str]
    read: Callable[[Reference, str], bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """What a coordinator needs of an execution's row, decoded.

    Args:
        options: how it runs; the defaults if the row is damaged.
        code: where its code is.
        error: why the row cannot be used, if it cannot.
    """

    options: ExecutionOptions
    code: CodeRef
    error: RayflowError | None = None

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error


def read_row(record: ExecutionRecord) -> Row:
    """Decode an execution's row."""
    try:
        return Row(options_of(record), code_of(record))
    except RayflowError as error:
        return Row(ExecutionOptions(), CodeRef("ref", "", ""), error)


def named(error: Exception, execution_id: str) -> Exception:
    """The error; damage that was found where nobody knew whose it is, with the execution's name."""
    if isinstance(error, CorruptRecord) and not error.execution_id:
        return CorruptRecord(execution_id, error.detail)
    return error


def read_input(record: ExecutionRecord, codec: MsgpackCodec) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an execution.

    Raises:
        CorruptRecord: they are damaged.
        CodecError: they cannot be had here: their classes are gone, or are pickles where none are allowed.
    """
    try:
        args, kwargs = codec.decode(record.input)
    except CodecError:
        check_payload(record.id, "the input in its row", record.input)
        raise
    return args, kwargs


def load_definition(
    record: ExecutionRecord,
    code: CodeRef,
    source: CodeSource,
    log: logging.LoggerAdapter[logging.Logger],
) -> WorkflowDefinition:
    """Return the workflow that an execution runs.

    Raises:
        IncompatibleVersion: the code is gone, is another version's, or needs another Python; it says what differs.
    """
    definition: WorkflowDefinition = source.cache.load(code, source.fetch)
    found = getattr(definition, "id", None)
    if found != record.workflow_id or definition.version != record.version:
        raise IncompatibleVersion(
            f"{code.place} is workflow {found!r} version {getattr(definition, 'version', '')!r} now; "
            f"execution {record.id!r} runs {record.workflow_id!r} version {record.version!r}"
        )
    _check_source(record, code, definition, source.detector, log)
    return definition


def _check_source(
    record: ExecutionRecord,
    code: CodeRef,
    definition: WorkflowDefinition,
    detector: CodeChangeDetector,
    log: logging.LoggerAdapter[logging.Logger],
) -> None:
    """Compare the code with what it was at the start. Raises IncompatibleVersion if it must not differ, and does."""
    strict = options_of(record).strict_versions
    if code.python != PYTHON:  # of code by reference: code by value was refused before it was read
        message = f"execution {record.id!r} was started with Python {code.python}, and this is Python {PYTHON}"
        if strict:
            raise IncompatibleVersion(
                f"{message}. With strict_versions it does not continue: run a cluster with Python {code.python}, or "
                "fork the execution"
            )
        log.warning("%s; it continues, and is paused if its replay differs from its journal", message)
    if record.code_fingerprint:
        changed = ", ".join(detector.changes(record.code_fingerprint, unloaded=strict))
    else:  # an earlier rayflow started it, or a schedule
        seen = source_hash(definition) if code.kind == "ref" else ""
        changed = code.place if seen and code.source_sha256 and seen != code.source_sha256 else ""
    if not changed:
        return
    message = (
        f"the code of workflow {record.workflow_id!r} version {record.version!r} changed since execution "
        f"{record.id!r} started: {changed}"
    )
    if strict:
        raise IncompatibleVersion(
            f"{message}. With strict_versions it does not continue: restore the code and resume it, or fork it"
        )
    log.warning("%s; it continues, and is paused if its replay differs from its journal", message)
