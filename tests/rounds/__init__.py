"""Rounds of faults against whole programs: `python3 -m tests.rounds` runs them all, see `__main__`."""
