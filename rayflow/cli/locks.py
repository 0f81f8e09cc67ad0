"""``lock list``: who has which lock and who waits for it. It reads the store and nothing else."""

from __future__ import annotations

import argparse
import time

from rayflow.cli.exit_codes import COMPLETED
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.client.locks import lock_info
from rayflow.display import lock_json, locks_text


def list_locks(args: argparse.Namespace, screen: Screen) -> int:
    """The locks and semaphores that somebody has or waits for, by name."""
    found = [lock_info(lock) for lock in read(store_url(args.store), lambda store: store.locks())]
    screen.answer(locks_text(found, screen.style(time.time())), [lock_json(lock) for lock in found])
    return COMPLETED
