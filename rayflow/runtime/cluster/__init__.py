"""Ray clusters: finding, starting and stopping one, and the processes of a local one."""
