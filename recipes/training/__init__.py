"""What training needs besides a model and images: devices, schedule, checkpoints."""
