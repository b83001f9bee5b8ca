"""From a model to the files of other packages."""

from keras_cbvit.export.timm import save_for_timm, to_timm

__all__ = ["save_for_timm", "to_timm"]
