"""Recipes that train, evaluate and publish the models; run them from a checkout."""
