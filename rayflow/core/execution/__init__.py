"""One execution: journal, run, attempts, requests and snapshot."""
