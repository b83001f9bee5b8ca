"""Segmentation data: sources, augmentation, batches."""
