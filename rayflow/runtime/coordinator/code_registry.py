"""Code of a coordinator's executions: what it loads itself, where workers find steps, and which version both need."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import CodeCache, CodeRef
from rayflow.definition.context import Target
from rayflow.errors import CorruptRecord
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Reply, send_to
from rayflow.runtime.code.change_detector import CodeChangeDetector
from rayflow.runtime.code.fingerprint import Fingerprint, Fingerprinter
from rayflow.runtime.code.loader import CodeSource
from rayflow.runtime.large_values import read_value, retry_until
from rayflow.storage.codec.large_values import Reference

#: Seconds for which a coordinator waits for a value while the store cannot be reached.
PATIENCE = 10.0

#: Steps and agents whose reference is remembered.
_KEPT = 1_000


class CodeRegistry:
    """Loads code through the store, and remembers references.

    Args:
        system: where the store is found.
        allow_pickle: whether code may travel by value.

    Attributes:
        cache: loads code.
        detector: compares what is loaded with what executions ask for.
        source: what one execution needs of all this.
    """

    def __init__(self, system: ActorSystem, *, allow_pickle: bool) -> None:
        self.cache = CodeCache(allow_pickle=allow_pickle)
        self.detector = CodeChangeDetector(self.fetch, enabled=system.separate)
        self.source = CodeSource(self.cache, self.fetch, self.detector, self.workflow, self.fingerprint, self.value)
        self._fingerprinter = Fingerprinter()
        self._stored: set[str] = set()
        self._system = system
        # With their owners, so that no other object gets the id of one.
        self._workflows: dict[int, tuple[object, CodeRef]] = {}
        self._known: dict[tuple[int, str], tuple[object, dict[str, str], str]] = {}

    def fetch(self, digest: str) -> bytes:
        """Return a blob of the store.

        Raises:
            CorruptRecord: it is not there, although it was stored before anything that names it.
            ClusterError, StorageUnavailable: the store cannot be asked now.
        """
        data: bytes | None = self._system.find(actor_names.STORE).call("blob", digest)
        if data is None:
            raise CorruptRecord("", f"blob {digest} is missing in the store")
        return data

    def value(self, reference: Reference, execution_id: str) -> bytes:
        """Return the payload of a large value that workflow code uses; the coordinator waits for it.

        Raises:
            CorruptRecord: it is missing or damaged.
            ClusterError, StorageUnavailable: it cannot be read now.
        """
        give_up = time.monotonic() + PATIENCE
        return retry_until(
            f"a large value that the code of execution {execution_id} uses cannot be read",
            lambda: read_value(self._system.find(actor_names.STORE), reference, execution_id),
            threading.Event().wait,
            lambda: time.monotonic() < give_up,
        )

    def fingerprint(self, wanted: str, code: CodeRef) -> str:
        """Return the fingerprint of a workflow's code as this coordinator runs it, and have the store keep it.

        Args:
            wanted: the execution's fingerprint, which stays as it is while all loaded modules are as it says.
            code: where the workflow is found.

        Raises:
            ClusterError, StorageUnavailable: the store cannot be asked now.
        """
        if not self.detector.enabled or (wanted and self.detector.matches(wanted)):
            return wanted
        found: Fingerprint = self._fingerprinter.of(code, lambda: self.fetch(code.digest))
        if found.id and found.id not in self._stored:
            self._system.find(actor_names.STORE).call("put_blob", found.id, found.to_bytes())
            self._stored.add(found.id)
        return found.id

    def put_value(self, digest: str, data: bytes, then: Callable[[Reply], None]) -> None:
        """Have the store keep a large value; ``then`` receives the reply."""
        send_to(self._system, actor_names.STORE, "put_value", digest, data, then=then, group="values")

    def workflow(self, definition: WorkflowDefinition) -> CodeRef:
        """Return a reference to a workflow's code, for a child. Code that travels by value is stored first.

        Raises:
            DefinitionError: it can neither be imported nor pickled.
            ClusterError, StorageUnavailable: it cannot be stored now.
        """
        known = self._workflows.get(id(definition))
        if known is None:
            found = self.cache.target_ref(Target(definition))
            if found.blob is not None:
                self._system.find(actor_names.STORE).call("put_blob", found.ref.digest, found.blob)
            known = self._workflows[id(definition)] = (definition, found.ref)
            if len(self._workflows) > _KEPT:
                del self._workflows[next(iter(self._workflows))]
        return known[1]

    def reference(self, target: Target, within: CodeRef) -> tuple[dict[str, str], str]:
        """Where a worker finds what a step calls: the reference and the part. What travels by value is stored first.

        Args:
            target: as the workflow issued it.
            within: the workflow's own reference.

        Raises:
            DefinitionError: it can neither be imported nor pickled.
            ClusterError, StorageUnavailable: it cannot be stored now.
        """
        known = self._known.get((id(target.owner), target.part))
        if known is None:
            found = self.cache.target_ref(target, within)
            if found.blob is not None:
                self._system.find(actor_names.STORE).call("put_blob", found.ref.digest, found.blob)
            known = self._known[id(target.owner), target.part] = (target.owner, found.ref.to_dict(), found.part)
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return known[1], known[2]
