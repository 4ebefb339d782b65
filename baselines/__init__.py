"""What the strategies are compared with; each is run as `python3 -m baselines.NAME`."""
