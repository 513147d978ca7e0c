"""The benchmarks: one file each, with the command's `parse` and `run`."""
