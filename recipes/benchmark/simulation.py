"""Training batches that wait instead of decoding and augmenting.

Worker processes import this module, so it must not import Keras.
"""

import time

import numpy as np

from ..data.batches import TrainingBatches
from ..data.images import Split

CLASSES = 1000
WAITS = 12  # waits per image, about the number of Pillow calls


class Simulation(TrainingBatches):
    """Batches whose images take a fixed time to prepare.

    Args:
        policy: a `recipes.options.classification.Augmentation`, whose random numbers
            are drawn.
        batch_size: images per step.
        image_size: height and width of the images.
        seconds: time to prepare an image on one core, without holding the GIL.
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
        self.draw(step)
        rows = range(self.batch_size)[part :: self.parts]
        end = time.perf_counter()
        for row in rows:
            for _ in range(WAITS):
                end += self.wait  # compensates for sleeping slightly too long
                time.sleep(max(end - time.perf_counter(), 0))
            arrays["images"][row] = self.image
            arrays["labels"][row] = self.smooth(self.targets(np.array([0])))
        return {}
