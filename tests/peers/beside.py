"""Our model with the weights of another package's, for what both give for images."""

import keras
import numpy as np

from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import loading


def images_for(content):
    """Two images of values 0-255, of the size and the channels of a content's model."""
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (2, *content.spec.input_shape)).astype("float32")


def our_outputs(content, images):
    """What our model with a content gives: all tokens, or logits if it has a head."""
    spec = content.spec.replace(classifier_activation=None)
    if spec.classes is None:
        spec = spec.replace(pooling=None)
    model = VisionTransformer(spec)
    loading.assign(model, content)
    return keras.ops.convert_to_numpy(model(images))


def assert_same_content(found, expected):
    """Fails unless two contents have one spec and the same weights."""
    assert found.spec == expected.spec
    assert found.class_names == expected.class_names
    assert found.weights.keys() == expected.weights.keys()
    for path, arrays in expected.weights.items():
        for one, other in zip(found.weights[path], arrays, strict=True):
            # Saving DINOv2 of KerasHub resamples its position embedding once more.
            np.testing.assert_allclose(one, other, rtol=1e-6)
