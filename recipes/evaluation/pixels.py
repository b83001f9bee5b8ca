"""Mean intersection over union of segmentation models on whole images.

All metrics derive from one integer confusion matrix over the whole set, so they do not
depend on the batch size or the number of devices.
"""

import contextlib

import numpy as np
from PIL import Image

from keras_cbvit.classes import join_names
from keras_cbvit.models.inference import patch_size_of

from ..data.augment import FILL
from ..data.feed import Feed
from ..data.segmentation.augment import pad, resize
from ..data.segmentation.pairs import IGNORED
from ..data.segmentation.whole import WholeImages, fit_to_canvas

BATCH_SIZE = 8
DRAWN = 4  # images of a set
CANVAS = 16  # as ADE20K's patch size; images of similar size share a canvas


def confusion_matrix(truth, prediction, classes):
    """Counts the pixels of each class that are predicted as each class.

    Args:
        truth: integer array, `IGNORED` for unlabeled pixels.
        prediction: integer array of the same shape, 0 to `classes - 1`.
        classes: number of classes.

    Returns:
        An int64 array of shape `(classes, classes)`, with true classes as rows and
        predicted classes as columns.

    Raises:
        ValueError: if the shapes differ, or a class is out of range.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has shape {truth.shape}, but prediction has shape "
            f"{prediction.shape}; the shapes must match."
        )
    counts = truth != IGNORED
    truth, prediction = truth[counts].astype("int64"), prediction[counts]
    for what, values in (("truth", truth), ("prediction", prediction)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(
                f"{what} has classes from {values.min()} to {values.max()}; with "
                f"{classes} classes, they must range from 0 to {classes - 1}."
            )
    numbers = np.bincount(truth * classes + prediction, minlength=classes**2)
    return numbers.reshape(classes, classes)


def measures(confusion):
    """Returns all metrics of a confusion matrix.

    Args:
        confusion: result of `confusion_matrix`, summed over all images.

    Returns:
        A dict: `pixels`, the number of labeled pixels; `pixel_accuracy`, the share of
        them predicted correctly; `class_iou`, the intersection over union of each
        class, `None` for a class in neither truth nor prediction; `mean_iou`, the mean
        over the other classes; `classes_counted`, the number of these;
        `not_labeled` and `never_predicted`, the classes absent from truth and from
        prediction; `majority_mean_iou` and `majority_pixel_accuracy`, the baseline of
        predicting the most frequent class everywhere.

    Raises:
        ValueError: if no pixel is labeled.
    """
    confusion = np.asarray(confusion)
    if not confusion.sum():
        raise ValueError("None of the pixels to evaluate is labeled.")
    right, truth = np.diag(confusion), confusion.sum(axis=1)
    predicted = confusion.sum(axis=0)
    union = predicted + truth - right
    # Baseline: the union of the most frequent class is all pixels; other IoUs are 0.
    majority = float(truth.max() / truth.sum())
    class_iou = [
        int(r) / int(u) if u else None for r, u in zip(right, union, strict=True)
    ]
    return {
        "pixels": int(confusion.sum()),
        "pixel_accuracy": float(right.sum() / confusion.sum()),
        "mean_iou": float(np.mean([iou for iou in class_iou if iou is not None])),
        "class_iou": class_iou,
        "classes_counted": int(np.count_nonzero(union)),
        "not_labeled": np.flatnonzero(truth == 0).tolist(),
        "never_predicted": np.flatnonzero(predicted == 0).tolist(),
        "majority_mean_iou": majority / np.count_nonzero(truth),
        "majority_pixel_accuracy": majority,
    }


def describe_omitted(found, names):
    """Returns a message on classes that mean IoU leaves out; `None` without any.

    Args:
        found: result of `measures`.
        names: names of all classes, in order.
    """
    ious = zip(names, found["class_iou"], strict=True)
    if neither := [name for name, iou in ious if iou is None]:
        return (
            f"mean IoU over {found['classes_counted']} of {len(names)} classes; "
            f"neither labels nor predictions contain {join_names(neither)}"
        )
    return None


def measure(model, pairs, scale, batch_size=BATCH_SIZE, examine=None):
    """Evaluates a segmentation model on whole images, each pixel exactly once.

    Follows the paper's protocol, whole images at a single scale as in mmsegmentation:
    resizes each image to the scale, keeping its aspect ratio; pads it with ImageNet's
    mean to multiples of the patch size, at least 16 pixels; predicts it; crops the
    padding from the logits and resizes them to the labels by bilinear interpolation;
    and takes the class of the largest logit.

    Args:
        model: model that takes images with values 0–255, of any size that is a multiple
            of its patch size, and returns logits of shape
            `(batch, height, width, classes)`. To use several devices, build it and call
            this in `recipes.training.devices.distribute`.
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
        scale: maximum of the short and of the long side.
        batch_size: number of images per batch, a multiple of the number of devices.
        examine: function that is called with each image's index, labels, prediction and
            confusion matrix.

    Returns:
        A dict of `images` and the result of `measures`.

    Raises:
        ValueError: if an image has invalid labels, or no pixel is labeled.
        FloatingPointError: if a logit is NaN or infinite.
    """
    classes = pairs.classes
    confusion = np.zeros((classes, classes), "int64")
    for index, labels, prediction in predict_pairs(model, pairs, scale, batch_size):
        of_image = confusion_matrix(labels, prediction, classes)
        confusion += of_image
        if examine is not None:
            examine(index, labels, prediction, of_image)
    return {"images": len(pairs), **measures(confusion)}


def predict_pairs(model, pairs, scale, batch_size=BATCH_SIZE):
    """Yields index, labels and prediction of each image, uint8 of the labels' size.

    Images are grouped by padded size, so they are not in order. For the arguments, see
    `measure`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    whole = WholeImages(pairs, scale, _divisor(model))
    waiting = {}
    with contextlib.closing(Feed(whole).read(0, len(pairs))) as inputs:
        for index, (image, labels, canvas) in enumerate(inputs):
            group = waiting.setdefault(canvas, [])
            group.append((index, image, labels))
            if len(group) == batch_size:
                del waiting[canvas]
                yield from _predict_group(model, canvas, group, batch_size)
    for canvas, group in waiting.items():
        yield from _predict_group(model, canvas, group, batch_size)


def predict_examples(models, pairs, scale, batch_size=BATCH_SIZE):
    """Returns images of a set with predictions, as `draw_segmentations` takes them.

    For the arguments, see `measure`.

    Returns:
        A row for each of four images, evenly spaced in the set: the image, its labels,
        and the prediction of each model.
    """
    pairs = pairs.spread(DRAWN)
    rows = [list(pair) for pair in pairs]
    for model in models:
        for index, _, prediction in predict_pairs(model, pairs, scale, batch_size):
            rows[index].append(prediction)
    return rows


def first_input(model, pairs, scale):
    """Returns a model's input for the first image, as a float32 batch of one."""
    image, _ = pairs[0]
    image, canvas = fit_to_canvas(image, scale, _divisor(model))
    return pad(image, canvas, FILL)[None].astype("float32")


def _divisor(model):
    """Returns the number that the sides of a canvas are multiples of."""
    patch_size = patch_size_of(model) or 1
    return -(-CANVAS // patch_size) * patch_size


def _predict_group(model, canvas, group, batch_size):
    """Yields index, labels and prediction of the images of one canvas size."""
    images = [pad(image, canvas, FILL) for _, image, _ in group]
    # Fills the batch: a single shape to compile, and divisible by the devices.
    images += images[:1] * (batch_size - len(images))
    logits = model.predict(np.stack(images), batch_size=batch_size, verbose=0)
    if not np.isfinite(logits[: len(group)]).all():
        raise FloatingPointError("The model's logits contain NaN or infinity.")
    for (index, image, labels), each in zip(group, logits, strict=False):
        height, width = image.shape[:2]
        yield index, labels, largest(each[:height, :width], labels.shape)


def largest(logits, shape):
    """Returns the class of the largest logit of each pixel after resizing.

    Resizes one class at a time by bilinear interpolation; all classes at once would
    take gigabytes for large images.

    Args:
        logits: float array of shape `(height, width, classes)`.
        shape: target `(height, width)`.

    Returns:
        A uint8 array of shape `shape`; the lower class wins ties.
    """
    if logits.shape[:2] == tuple(shape):
        return logits.argmax(axis=-1).astype("uint8")
    best = np.full(shape, -np.inf, "float32")
    found = np.zeros(shape, "uint8")
    for number in range(logits.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(logits[..., number], "float32"))
        plane = np.asarray(resize(plane, tuple(shape)[::-1]))
        found[plane > best] = number
        best = np.maximum(best, plane)
    return found
