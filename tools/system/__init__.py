"""What every program needs of the machine: errors, files, command line, processes, signals."""
