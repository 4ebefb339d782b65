"""Files, screens and processes: data sets, checkpoints, logs, pictures. Nothing here knows the method."""
