"""k-NN and linear probes of frozen features.

They follow DINO (ICCV 2021) and DINOv2, on training and test images without
augmentation.
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
# Candidates for the linear probe's inverse strength of L2 regularization.
STRENGTHS = tuple(float(10.0**power) for power in range(-5, 3))
HELD_OUT = 0.1  # share of the training images that selects the strength
ITERATIONS = 1000
PASSED = keras.layers.Activation, keras.layers.Dropout, keras.layers.Softmax


def probe(name, model, dataset, options, batch_size):
    """Evaluates the features of a model.

    Args:
        name: name of the model in error messages.
        model: a `VisionTransformer`, whose features are its tokens after the last norm;
            or another Keras model, whose features are the inputs of its last dense
            layer, or its outputs if it does not end in one.
        dataset: a `recipes.data.sources.Dataset` with training images. Its classes may
            differ from those of the model.
        options: a `recipes.evaluate.Evaluation`.
        batch_size: number of images per batch.

    Yields:
        Dicts of `under`, the probe and the block; `images`, `right`, `top1`, `top5`,
        `loss` and `ece`, see `recipes.evaluation.metrics.measures`; and, for the linear
        probe, `regularization`, the selected inverse strength.

    Raises:
        ValueError: if the model lacks the blocks, or a feature vector per image.
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
    """Returns a model that maps images with values 0-255 to features.

    Args:
        name: name of the model in error messages.
        model: see `probe`.
        blocks: indices of blocks of a `VisionTransformer`; empty for the last one.
        normalize: see `recipes.evaluation.classifiers.as_classifier`.
        image_size: height and width for a model of variable image size.

    Returns:
        A Keras model with outputs of shape `(batch, blocks, vectors, channels)`. The
        vectors are the class token, if the model has one, and the mean of the patch
        tokens. Models other than a `VisionTransformer` have one vector.
    """
    if isinstance(model, keras_cbvit.VisionTransformer):
        if model.spec.include_preprocessing:
            normalize = "none"
        vectors = _token_vectors(model, blocks)
    else:
        if blocks:
            raise ValueError(
                f"probe_blocks={blocks} requires a VisionTransformer, which {name} is "
                "not."
            )
        features = _last_features(model)
        if len(features.shape) != 2:
            raise ValueError(
                f"{name} returns features of shape {features.shape}, not one vector "
                "per image; add a pooling layer at its end."
            )
        vectors = features[:, None, None]
    features = keras.Model(model.inputs, ops.cast(vectors, "float32"))
    return of_pixels(name, features, normalize, image_size)


def _token_vectors(model, blocks):
    depth = model.spec.depth
    if wrong := [block for block in blocks if not 0 <= block < depth]:
        raise ValueError(
            f"probe_blocks={blocks}: block {wrong[0]} does not exist; the {depth} "
            f"blocks are 0 to {depth - 1}."
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
    """Returns the inputs of the last layer if it is dense, else its outputs."""
    layer, inputs, _ = producer_of(model.outputs[0])
    while isinstance(layer, PASSED):
        layer, inputs, _ = producer_of(inputs[0])
    is_head = isinstance(layer, keras.layers.Dense)
    return inputs[0] if is_head else model.outputs[0]


def _features(network, split, classes, batch_size, strict):
    """Returns features and labels of the images that can be decoded."""
    batches = Batches(split, classes, batch_size, strict=strict)
    features = predict(network, batches)
    there = np.ones(len(split), bool)
    there[list(batches.broken)] = False
    return features[there], split.labels[there]


def nearest_neighbors(train, labels, test, classes):
    """Classifies by the weighted votes of the nearest training images, as DINO does.

    Uses the cosine similarity of the first vectors (the class tokens, if any). A
    neighbor with similarity s has the weight exp(s / 0.07).

    Yields:
        A title, the share of votes for each class, and an empty dict, for 10 and for 20
        neighbors.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if len(train) < max(NEIGHBORS):
        raise ValueError(
            f"k-NN requires at least {max(NEIGHBORS)} training images, but the data "
            f"set has {len(train)}."
        )
    for k in NEIGHBORS:
        found = KNeighborsClassifier(
            k, weights=_votes, metric="cosine", algorithm="brute"
        ).fit(train[:, 0], labels)
        yield f"{k}-NN", _of_all(found, test[:, 0], classes), {}


def _votes(distances):
    # Scaled so that the nearest neighbor's weight is 1, which avoids overflow.
    nearest = distances.min(axis=1, keepdims=True)
    return np.exp((nearest - distances) / TEMPERATURE)


def linear(train, labels, test, classes):
    """Classifies by logistic regression on the concatenated, standardized vectors.

    Selects the regularization strength on a held-out tenth of the training images, then
    fits to all of them.

    Yields:
        A title, the class probabilities, and a dict with `regularization`.
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
    """Returns probabilities of all classes, 0 for those absent from training."""
    predictions = np.zeros((len(features), classes), "float32")
    predictions[:, classifier.classes_] = classifier.predict_proba(features)
    return predictions


PROBES = {"knn": nearest_neighbors, "linear": linear}
