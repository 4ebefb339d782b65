"""Time and memory of a step, the loader and evaluation; each is run as `python3 -m benchmarks.NAME`."""
