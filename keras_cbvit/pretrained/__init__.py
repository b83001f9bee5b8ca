"""Published weights: records, verified loading, publishing, conversion."""
