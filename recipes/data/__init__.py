"""Data sets, augmentation, batches, and input pipelines."""
