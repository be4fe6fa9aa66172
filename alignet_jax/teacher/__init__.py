"""The teacher: an affine map of frozen features, fitted to human judgments."""
