"""Loads the code of an execution, and makes sure that it is the one that it was started with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import PYTHON, CodeCache, CodeRef, source_hash
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import CodecError, CorruptRecord, IncompatibleVersion, RayflowError
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import check_payload, code_of, options_of
from rayflow.storage.model import ExecutionRecord

Fetch = Callable[[str], bytes]


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
    record: ExecutionRecord, code: CodeRef, cache: CodeCache, fetch: Fetch, log: logging.LoggerAdapter[logging.Logger]
) -> WorkflowDefinition:
    """The workflow that an execution runs.

    Args:
        record: the execution's row.
        code: where its code is.
        cache: loads it.
        fetch: answers blobs of the store.
        log: told where the source has changed.

    Raises:
        IncompatibleVersion: the code is gone, is another version's, or needs another Python; it says what differs.
    """
    if code.python != PYTHON:
        raise IncompatibleVersion(
            f"execution {record.id!r} was started with Python {code.python}, and this is Python {PYTHON}, where "
            f"asyncio may order things differently; run a cluster with Python {code.python}"
        )
    definition: WorkflowDefinition = cache.load(code, fetch)
    found = getattr(definition, "id", None)
    if found != record.workflow_id or definition.version != record.version:
        raise IncompatibleVersion(
            f"{code.place} is workflow {found!r} version {getattr(definition, 'version', '')!r} now; "
            f"execution {record.id!r} runs {record.workflow_id!r} version {record.version!r}"
        )
    _check_source(record, code, definition, log)
    return definition


def _check_source(
    record: ExecutionRecord,
    code: CodeRef,
    definition: WorkflowDefinition,
    log: logging.LoggerAdapter[logging.Logger],
) -> None:
    seen = source_hash(definition)
    if not (seen and code.source_sha256) or seen == code.source_sha256:
        return
    message = (
        f"the source of workflow {record.workflow_id!r} version {record.version!r} ({code.place}) "
        f"changed since execution {record.id!r} started"
    )
    if options_of(record).strict_versions:
        raise IncompatibleVersion(message + "; give the changed workflow another version")
    log.warning("%s; it goes on, and is paused if it does not repeat itself", message)
