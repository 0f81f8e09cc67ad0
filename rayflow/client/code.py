"""Code of the workflows that an engine starts: how it is recorded, and which version of it the client has."""

from __future__ import annotations

import json
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rayflow.definition.code import CodeRef, by_value, reference
from rayflow.definition.workflow import Workflow
from rayflow.errors import CorruptRecord, RayflowError
from rayflow.runtime.actors.base import Actor
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.code.fingerprint import Fingerprinter
from rayflow.storage.model import DefinitionRecord, ExecutionRecord

log = logging.getLogger(__name__)

#: Blobs that are remembered to be stored, or to be read again.
_MOST = 100


class ClientCode:
    """Records the code of workflows, and fingerprints it. Both are stored before anything refers to them.

    Args:
        env: the code environment of this process.
        store: returns the store's actor.
    """

    def __init__(self, env: Environment, store: Callable[[], Actor]) -> None:
        self._env = env
        self._store = store
        self._fingerprinter = Fingerprinter()
        #: What can be imported, with the steps that it had: more can be added until it is recorded again.
        self._imported: weakref.WeakKeyDictionary[Any, tuple[object, CodeRef]] = weakref.WeakKeyDictionary()
        self._blobs: OrderedDict[str, bytes] = OrderedDict()

    def record(self, workflow: Any, *, allow_pickle: bool) -> CodeRef:
        """Return a reference to a workflow's code as it is now.

        What cannot be imported is pickled at each call, since what it refers to may have been defined again.

        Raises:
            DefinitionError: it can be neither imported nor pickled, or must not be pickled.
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
        self._keep(code.digest, blob)
        return code

    def fingerprint(self, definition: DefinitionRecord | ExecutionRecord) -> str:
        """Return the id of the fingerprint of a workflow's code as it is on this machine now.

        Returns:
            "" where this process cannot tell: it imports from other folders than the workflow's, or the record of that
            is damaged, of which a coordinator takes care.

        Raises:
            ClusterError, StorageUnavailable: the fingerprint cannot be stored now.
        """
        try:
            environment = Environment.from_json(definition.environment)
            code = CodeRef.from_dict(json.loads(definition.code))
        except (RayflowError, ValueError, TypeError, KeyError, AttributeError):
            return ""
        if not self._env.has_code_of(environment):
            return ""
        try:
            found = self._fingerprinter.of(code, lambda: self._blob(code.digest))
        except CorruptRecord:
            return ""
        if found.id:
            self._keep(found.id, found.to_bytes())
        return found.id

    def fingerprint_now(self, record: ExecutionRecord) -> str:
        """Return the same for an execution that is to be woken, which happens in any case."""
        try:
            return self.fingerprint(record)
        except RayflowError as error:
            log.debug("the code of execution %s cannot be fingerprinted: %s", record.id, error)
            return ""

    def _keep(self, digest: str, blob: bytes) -> None:
        """Have the store keep a blob, unless it has it already."""
        if digest not in self._blobs:
            self._store().call("put_blob", digest, blob)
            self._remember(digest, blob)

    def _blob(self, digest: str) -> bytes:
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._store().call("blob", digest)
            if blob is None:
                raise CorruptRecord("", f"blob {digest} is missing in the store")
            self._remember(digest, blob)
        return blob

    def _remember(self, digest: str, blob: bytes) -> None:
        self._blobs[digest] = blob
        if len(self._blobs) > _MOST:
            self._blobs.popitem(last=False)


def reference_in(definition: DefinitionRecord | None) -> CodeRef | None:
    """Where a saved workflow is found; None if there is none, or its record is damaged."""
    if definition is None:
        return None
    try:
        return CodeRef.from_dict(json.loads(definition.code))
    except (RayflowError, ValueError, TypeError, AttributeError):
        return None
