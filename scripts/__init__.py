"""One file per command: read a spec, run, write."""
