"""Files, folds, samples, augmentation, synthesis: arrays and paths, never a config or a network."""
