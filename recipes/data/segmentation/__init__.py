"""Images with a class for each pixel: sources, augmentation, batches."""
