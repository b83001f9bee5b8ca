"""Exports models to other packages and runtimes."""

from keras_cbvit.export.model import Export, export_model
from keras_cbvit.export.timm import save_for_timm, to_timm

__all__ = ["Export", "export_model", "save_for_timm", "to_timm"]
