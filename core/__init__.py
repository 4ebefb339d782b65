"""The method: networks, keypoints, tiles, losses, teacher, and the training loop that joins them with `tools`."""
