"""The pool actor: leases slots of its workers to coordinators."""
