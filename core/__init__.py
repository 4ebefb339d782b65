"""Object-aware self-supervised multi-label classification: the method, its training and its evaluation."""
