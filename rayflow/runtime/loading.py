"""Loads the code of an execution, and makes sure that it is the one that it was started with."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import PYTHON, CodeCache, CodeRef, source_hash
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import IncompatibleVersion
from rayflow.storage.operations import ExecutionRecord

Fetch = Callable[[str], bytes]


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
    if ExecutionOptions.model_validate_json(record.options).strict_versions:
        raise IncompatibleVersion(message + "; give the changed workflow another version")
    log.warning("%s; it goes on, and is paused if it does not repeat itself", message)
