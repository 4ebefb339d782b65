"""Data sets on the disk and on their way into the network."""
