"""The deterministic interpreter of workflow code: event loop, sandbox, calls, replay check. Pure."""
