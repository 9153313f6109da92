"""From checkpoints and images to decisions, instances and the submission's run lengths."""
