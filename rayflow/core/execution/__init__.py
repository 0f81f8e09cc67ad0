"""One execution: its journal, run, attempts, requests and snapshot. Pure."""
