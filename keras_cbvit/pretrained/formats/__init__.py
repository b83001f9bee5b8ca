"""What files and objects of weights say: one module for each kind.

Each gives a `Content`: what the weights are of, and the weights by our names.
"""

from keras_cbvit.pretrained.formats.content import Content as Content
