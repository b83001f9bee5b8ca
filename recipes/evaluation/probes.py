"""What the features of a frozen backbone know of a data set: k-NN and linear probe.

As DINO (ICCV 2021) and DINOv2 measure them, on the features of training and test
images as they are, without augmentation.
"""

import keras
import numpy as np
from keras import ops

import keras_cbvit
from keras_cbvit.internals import producer_of

from ..data.batches import Batches
from ..training.hand_over import predict
from .classifiers import of_pixels
from .metrics import measures

NEIGHBORS = 10, 20
TEMPERATURE = 0.07
# Inverse strengths of the L2 regularization that the linear probe chooses from.
STRENGTHS = tuple(float(10.0**power) for power in range(-5, 3))
HELD_OUT = 0.1  # share of the training images that the choice is made on
ITERATIONS = 1000
PASSED = keras.layers.Activation, keras.layers.Dropout, keras.layers.Softmax


def probe(name, model, dataset, options, batch_size):
    """Measures the features of a model.

    Args:
        name: what messages call the model.
        model: a `VisionTransformer`, whose features are those of its tokens behind its
            last norm; or another Keras model, whose features are what its last dense
            layer classifies, or its outputs if it has none.
        dataset: a `recipes.data.sources.Dataset` with training images. Its classes need
            not be those of the model.
        options: a `recipes.evaluate.Evaluation`.
        batch_size: images that are predicted at once.

    Yields:
        Dicts: `under`, the probe and the block; `images`, `right`, `top1`, `top5`,
        `loss` and `ece`, see `recipes.evaluation.metrics.measures`; for the linear
        probe `regularization`, the inverse strength that was chosen.

    Raises:
        ValueError: if the model has no such blocks, or no vector of features.
    """
    blocks = options.probe_blocks
    network = feature_model(name, model, blocks, options.normalize, options.image_size)
    classes = len(dataset.class_names)
    (train, train_labels), (test, test_labels) = (
        _features(network, split, classes, batch_size, options.strict)
        for split in (dataset.train, dataset.test)
    )
    right = test_labels[:, None] == np.arange(classes)
    places = [f", block {block}" for block in blocks] or [""]
    for i, place in enumerate(places):
        for kind in options.probe:
            for title, predicted, chosen in PROBES[kind](
                train[:, i], train_labels, test[:, i], classes
            ):
                found = measures(predicted, right, logits=False)
                yield {"under": f"{title}{place}", **found, **chosen}


def feature_model(name, model, blocks=(), normalize="none", image_size=None):
    """A model from images of values 0-255 to features.

    Args:
        name: what messages call the model.
        model: as of `probe`.
        blocks: indices of blocks of a `VisionTransformer`; none for the last one.
        normalize: see `recipes.evaluation.classifiers.as_classifier`.
        image_size: height and width for a model that takes any.

    Returns:
        A Keras model whose outputs are of shape `(batch, blocks, vectors, channels)`.
        The vectors are the class token, if there is one, and the mean of the patches'
        tokens; of a model that is no `VisionTransformer` there is one vector.
    """
    if isinstance(model, keras_cbvit.VisionTransformer):
        if model.spec.include_preprocessing:
            normalize = "none"
        vectors = _token_vectors(model, blocks)
    else:
        if blocks:
            raise ValueError(
                f"probe_blocks={blocks} is for VisionTransformers, which {name} is not."
            )
        features = _last_features(model)
        if len(features.shape) != 2:
            raise ValueError(
                f"{name} gives features of shape {features.shape}, not one vector of "
                "an image; end it in a pooling layer."
            )
        vectors = features[:, None, None]
    features = keras.Model(model.inputs, ops.cast(vectors, "float32"))
    return of_pixels(name, features, normalize, image_size)


def _token_vectors(model, blocks):
    depth = model.spec.depth
    if wrong := [block for block in blocks if not 0 <= block < depth]:
        raise ValueError(
            f"probe_blocks={blocks}: {wrong[0]} is none of the {depth} blocks, 0 to "
            f"{depth - 1}."
        )
    last = model.blocks[-1] if model.spec.extra_branch == "none" else None
    outputs = [model.blocks[block].output for block in blocks] or [
        (last or model.get_layer("extra_branch")).output
    ]
    norm, prefix = model.get_layer("norm"), model.spec.num_prefix_tokens
    vectors = []
    for tokens in map(norm, outputs):
        found = [ops.mean(tokens[:, prefix:], axis=1)]
        if model.spec.class_token:
            found.insert(0, tokens[:, 0])
        vectors.append(ops.stack(found, axis=1))
    return ops.stack(vectors, axis=1)


def _last_features(model):
    """What the last layer classifies, if it is a dense one, else its outputs."""
    layer, inputs, _ = producer_of(model.outputs[0])
    while isinstance(layer, PASSED):
        layer, inputs, _ = producer_of(inputs[0])
    is_head = isinstance(layer, keras.layers.Dense)
    return inputs[0] if is_head else model.outputs[0]


def _features(network, split, classes, batch_size, strict):
    """Features and labels of the images that can be decoded."""
    batches = Batches(split, classes, batch_size, strict=strict)
    features = predict(network, batches)
    there = np.ones(len(split), bool)
    there[list(batches.broken)] = False
    return features[there], split.labels[there]


def nearest_neighbors(train, labels, test, classes):
    """Weighted votes of the nearest training images, as DINO counts them.

    Distances are cosines of the class tokens, or of the first vector there is; a
    neighbor of similarity s votes with exp(s / 0.07).

    Yields:
        For 10 and 20 neighbors a title, the share of the votes for each class, and an
        empty dict.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if len(train) < max(NEIGHBORS):
        raise ValueError(
            f"There are {len(train)} training images; k-NN takes {max(NEIGHBORS)} or "
            "more."
        )
    for k in NEIGHBORS:
        found = KNeighborsClassifier(
            k, weights=_votes, metric="cosine", algorithm="brute"
        ).fit(train[:, 0], labels)
        yield f"{k}-NN", _of_all(found, test[:, 0], classes), {}


def _votes(distances):
    # Of the nearest one 1, so that none overflows.
    nearest = distances.min(axis=1, keepdims=True)
    return np.exp((nearest - distances) / TEMPERATURE)


def linear(train, labels, test, classes):
    """Logistic regression on all vectors side by side, standardized.

    The strength of its regularization is the best one on a tenth of the training
    images; then all of them train it.

    Yields:
        A title, the probabilities of each class, and a dict with `regularization`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = (features.reshape(len(features), -1) for features in (train, test))
    part, held_out, part_labels, held_out_labels = train_test_split(
        train, labels, test_size=HELD_OUT, random_state=0
    )

    def regression(strength):
        return make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS)
        )

    scores = {
        strength: regression(strength)
        .fit(part, part_labels)
        .score(held_out, held_out_labels)
        for strength in STRENGTHS
    }
    best = max(STRENGTHS, key=lambda strength: scores[strength])
    found = regression(best).fit(train, labels)
    yield "linear probe", _of_all(found, test, classes), {"regularization": best}


def _of_all(classifier, features, classes):
    """Probabilities of all classes, of which some may not occur in training."""
    predictions = np.zeros((len(features), classes), "float32")
    predictions[:, classifier.classes_] = classifier.predict_proba(features)
    return predictions


PROBES = {"knn": nearest_neighbors, "linear": linear}
