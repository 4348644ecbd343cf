"""Facts about public checkpoints: no weights."""
