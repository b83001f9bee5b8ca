"""The options of the tasks: their data, augmentation and training."""
