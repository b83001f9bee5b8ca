"""Where images come from, how they are augmented and how they are batched."""
