"""Code of the workflows that an engine starts: how it is recorded, and its fingerprint on this machine."""

from __future__ import annotations

import json
import logging
import weakref
from collections import OrderedDict
from typing import Any

from rayflow.client.backend import Backend
from rayflow.definition.code import CodeRef, by_value, reference
from rayflow.definition.workflow import Workflow
from rayflow.errors import CorruptRecord, RayflowError
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.code.fingerprint import Fingerprinter
from rayflow.storage.model import DefinitionRecord, ExecutionRecord

log = logging.getLogger(__name__)

#: Number of blobs that are kept in memory.
_CACHED_BLOBS = 100


class ClientCode:
    """Records and fingerprints the code of workflows. Both are stored before any record refers to them.

    Args:
        environment: the code environment of this process.
        backend: where blobs are stored.
    """

    def __init__(self, environment: Environment, backend: Backend) -> None:
        self._environment = environment
        self._backend = backend
        self._fingerprinter = Fingerprinter()
        #: Importable workflows, with the steps that they had: more can be added until the workflow is recorded again.
        self._imported: weakref.WeakKeyDictionary[Any, tuple[object, CodeRef]] = weakref.WeakKeyDictionary()
        self._blobs: OrderedDict[str, bytes] = OrderedDict()

    def record(self, workflow: Any, *, allow_pickle: bool) -> CodeRef:
        """Return a reference to a workflow's code as it is now.

        A workflow that cannot be imported is pickled at each call, since the objects that it refers to may have been
        defined again.

        Raises:
            DefinitionError: the workflow can be neither imported nor pickled, or pickling is not allowed.
        """
        steps = workflow.steps if isinstance(workflow, Workflow) else None
        known = self._imported.get(workflow)
        if known is not None and known[0] is steps:
            return known[1]
        code = reference(workflow)
        if code is not None:
            self._imported[workflow] = (steps, code)
            return code
        code, blob = by_value(workflow, allow_pickle=allow_pickle)
        self._put_blob(code.digest, blob)
        return code

    def fingerprint(self, definition: DefinitionRecord | ExecutionRecord) -> str:
        """Return the id of the fingerprint of a workflow's code as it is on this machine now.

        Returns:
            "" if the fingerprint is unknown: this process imports from other folders than the workflow, or the record
            of the code is damaged, which a coordinator reports.

        Raises:
            ClusterError, StorageUnavailable: the fingerprint cannot be stored now.
        """
        code = code_reference(definition)
        if code is None:
            return ""
        try:
            environment = Environment.from_json(definition.environment)
        except (ValueError, TypeError, KeyError, AttributeError):
            return ""
        if not self._environment.has_code_of(environment):
            return ""
        try:
            found = self._fingerprinter.of(code, lambda: self._blob(code.digest))
        except CorruptRecord:
            return ""
        if found.id:
            self._put_blob(found.id, found.to_bytes())
        return found.id

    def fingerprint_if_known(self, record: ExecutionRecord) -> str:
        """Return the fingerprint of an execution's code; "" also if the fingerprint cannot be stored now."""
        try:
            return self.fingerprint(record)
        except RayflowError as error:
            log.debug("the code of execution %s cannot be fingerprinted: %s", record.id, error)
            return ""

    def _put_blob(self, digest: str, blob: bytes) -> None:
        """Store a blob, unless the store has it already."""
        if digest not in self._blobs:
            self._backend.put_blob(digest, blob)
            self._remember(digest, blob)

    def _blob(self, digest: str) -> bytes:
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._backend.blob(digest)
            if blob is None:
                raise CorruptRecord("", f"blob {digest} is missing in the store")
            self._remember(digest, blob)
        return blob

    def _remember(self, digest: str, blob: bytes) -> None:
        self._blobs[digest] = blob
        if len(self._blobs) > _CACHED_BLOBS:
            self._blobs.popitem(last=False)


def code_reference(definition: DefinitionRecord | ExecutionRecord | None) -> CodeRef | None:
    """Return the reference to the code of a record; None without a record, or if it is damaged."""
    if definition is None:
        return None
    try:
        return CodeRef.from_dict(json.loads(definition.code))
    except (RayflowError, ValueError, TypeError, AttributeError):
        return None
