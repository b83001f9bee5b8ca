"""Mean intersection over union of segmentation, over whole images.

Everything follows from one confusion matrix of whole numbers over the whole set, so
neither the size of the batches nor the number of devices changes a digit.
"""

import contextlib

import numpy as np
from PIL import Image

from keras_cbvit.classes import listed
from keras_cbvit.models.inference import patch_size_of

from ..data.augment import FILL
from ..data.feed import Feed
from ..data.segmentation.augment import pad, resize
from ..data.segmentation.pairs import IGNORED
from ..data.segmentation.whole import WholeImages, fit_to_canvas

BATCH_SIZE = 8
DRAWN = 4  # images of a set
CANVAS = 16  # images of nearly one size share a canvas, that of ADE20K's patches


def confusion_matrix(truth, prediction, classes):
    """How many pixels of each class are predicted as each class.

    Args:
        truth: integers, `IGNORED` where a pixel does not count.
        prediction: integers of 0 to `classes - 1`, of the same shape.
        classes: how many there are.

    Returns:
        An int64 array of shape `(classes, classes)`: a row for each true class, a
        column for each predicted one.

    Raises:
        ValueError: if the shapes differ, or there are other classes.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"The truth has the shape {truth.shape}, the prediction "
            f"{prediction.shape}; they must be the same."
        )
    counts = truth != IGNORED
    truth, prediction = truth[counts].astype("int64"), prediction[counts]
    for what, values in (("truth", truth), ("prediction", prediction)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(
                f"The {what} has classes of {values.min()} to {values.max()}; the "
                f"{classes} classes are 0 to {classes - 1}."
            )
    numbers = np.bincount(truth * classes + prediction, minlength=classes**2)
    return numbers.reshape(classes, classes)


def measures(confusion):
    """Everything that is measured, from a confusion matrix.

    Args:
        confusion: of `confusion_matrix`, summed over all images.

    Returns:
        A dict: `pixels`, how many count; `pixel_accuracy`, the share of them that is
        right; `class_iou`, for each class the pixels that are in truth and prediction,
        as a share of those that are in either, `None` for a class that is in neither;
        `mean_iou`, the mean over the classes that have one; `classes_counted`, how
        many these are; `not_labeled` and `never_predicted`, the classes that no pixel
        is of in truth, and in prediction; `majority_mean_iou` and
        `majority_pixel_accuracy`, what predicting the most frequent class everywhere
        would have, the least that a model must beat.

    Raises:
        ValueError: if no pixel counts.
    """
    confusion = np.asarray(confusion)
    if not confusion.sum():
        raise ValueError("There is no labeled pixel to measure on.")
    right, truth = np.diag(confusion), confusion.sum(axis=1)
    predicted = confusion.sum(axis=0)
    union = predicted + truth - right
    # Of the most frequent class the union is all pixels; all others have an IoU of 0.
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


def left_out(found, names):
    """Over how many classes a mean IoU is, in words; `None` if over all of them.

    Args:
        found: of `measures`.
        names: of all classes, in order.
    """
    ious = zip(names, found["class_iou"], strict=True)
    if neither := [name for name, iou in ious if iou is None]:
        return (
            f"mean IoU over {found['classes_counted']} of {len(names)} classes: "
            f"neither labeled nor predicted is {listed(neither)}"
        )
    return None


def measure(model, pairs, scale, batch_size=BATCH_SIZE, examine=None):
    """Measures a segmentation model on whole images, each pixel exactly once.

    The paper's protocol, the whole image at one scale, as mmsegmentation does it: each
    image is brought to the scale in its proportions, padded with ImageNet's mean to
    multiples of the patch size, 16 pixels at least, and predicted; the logits of the
    image itself are brought back to the size of its labels, bilinear, and the class
    of the largest is taken.

    Args:
        model: from images of values 0–255 and of any size that its patches divide to
            logits of shape `(batch, height, width, classes)`. To measure on several
            devices, build it and call this in `recipes.training.devices.distribute`.
        pairs: a `recipes.data.segmentation.pairs.Pairs`.
        scale: the short and the long side, see `scaled`.
        batch_size: images of one size that are predicted at once; the devices divide
            it.
        examine: a function that gets each image's index, labels, prediction and
            confusion matrix.

    Returns:
        A dict of `images` and what `measures` gives.

    Raises:
        ValueError: on an image with wrong labels, and if no pixel counts.
        FloatingPointError: if a logit is NaN or infinite.
    """
    classes = pairs.classes
    confusion = np.zeros((classes, classes), "int64")
    for index, labels, prediction in predicted(model, pairs, scale, batch_size):
        of_image = confusion_matrix(labels, prediction, classes)
        confusion += of_image
        if examine is not None:
            examine(index, labels, prediction, of_image)
    return {"images": len(pairs), **measures(confusion)}


def predicted(model, pairs, scale, batch_size=BATCH_SIZE):
    """Yields index, labels and prediction of each image, uint8 of its own size.

    Images of one size come together, not in their order. For the arguments see
    `measure`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    whole = WholeImages(pairs, scale, _divisor(model))
    waiting = {}
    with contextlib.closing(Feed(whole).read(0, len(pairs))) as pictures:
        for index, (image, labels, canvas) in enumerate(pictures):
            group = waiting.setdefault(canvas, [])
            group.append((index, image, labels))
            if len(group) == batch_size:
                del waiting[canvas]
                yield from _predicted(model, canvas, group, batch_size)
    for canvas, group in waiting.items():
        yield from _predicted(model, canvas, group, batch_size)


def predicted_pictures(models, pairs, scale, batch_size=BATCH_SIZE):
    """Some images of a set with what models predict, as `draw_segmentations` draws.

    For the other arguments see `measure`.

    Returns:
        A row for each of four images, evenly from the first to the last: the image,
        its labels, and what each of the models predicts.
    """
    pairs = pairs.spread(DRAWN)
    rows = [list(pair) for pair in pairs]
    for model in models:
        for index, _, prediction in predicted(model, pairs, scale, batch_size):
            rows[index].append(prediction)
    return rows


def first_input(model, pairs, scale):
    """What a model is given for the first image, float32 and a batch of its own."""
    picture, _ = pairs[0]
    image, canvas = fit_to_canvas(picture, scale, _divisor(model))
    return pad(image, canvas, FILL)[None].astype("float32")


def _divisor(model):
    """What the sides of a canvas are multiples of."""
    patch_size = patch_size_of(model) or 1
    return -(-CANVAS // patch_size) * patch_size


def _predicted(model, canvas, group, batch_size):
    """Index, labels and prediction of the images of one canvas."""
    images = [pad(image, canvas, FILL) for _, image, _ in group]
    # Every batch is full: one shape to compile, one that the devices divide.
    images += images[:1] * (batch_size - len(images))
    logits = model.predict(np.stack(images), batch_size=batch_size, verbose=0)
    if not np.isfinite(logits[: len(group)]).all():
        raise FloatingPointError("A logit of the model is NaN or infinite.")
    for (index, image, labels), each in zip(group, logits, strict=False):
        height, width = image.shape[:2]
        yield index, labels, largest(each[:height, :width], labels.shape)


def largest(logits, shape):
    """The class of the largest logit of each pixel, at another size.

    Args:
        logits: float array of shape `(height, width, classes)`.
        shape: the wanted `(height, width)`. The logits are resized, bilinear, one class
            after the other: all together would take gigabytes for large images.

    Returns:
        A uint8 array of this shape; of equal logits the first class.
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
