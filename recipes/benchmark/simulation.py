"""Training batches of which waiting takes the place of decoding and augmenting.

Worker processes, which cannot import Keras, import this.
"""

import time

import numpy as np

from ..data.batches import TrainingBatches
from ..data.pictures import Split

CLASSES = 1000
WAITS = 12  # that an image consists of, as an image takes so many calls of Pillow


class Simulation(TrainingBatches):
    """Batches of a step for each of which as many images are prepared.

    Args:
        policy: a `recipes.options.classification.Augmentation`, of which the numbers
            are drawn.
        batch_size: images of a step.
        image_size: their height and width.
        seconds: how long an image takes a core; Python's lock is free meanwhile.
    """

    def __init__(self, policy, batch_size, image_size, seconds):
        image = np.zeros((1, image_size, image_size, 3), "uint8")
        images = np.broadcast_to(image, (batch_size, *image.shape[1:]))
        split = Split(images, np.zeros(batch_size, "int64"))
        super().__init__(split, CLASSES, batch_size, policy)
        self.images = None
        self.image = image[0]
        self.wait = seconds / WAITS

    def prepare(self, step, part, arrays):
        self.drawn(step)
        rows = range(self.batch_size)[part :: self.parts]
        end = time.perf_counter()
        for row in rows:
            for _ in range(WAITS):
                end += self.wait  # as waiting takes a little longer than asked for
                time.sleep(max(end - time.perf_counter(), 0))
            arrays["images"][row] = self.image
            arrays["labels"][row] = self.smoothed(self.targets(np.array([0])))
        return {}
