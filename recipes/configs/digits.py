"""Train a small ViT with CB on scikit-learn's handwritten digits, without downloads.

    python -m recipes.train digits

Uses 1,437 training and 360 test images, resized from 8x8 to 16x16 pixels so that they
can be shifted by half a pixel. Takes two or three minutes on 2 CPU cores.
"""

import dataclasses
from pathlib import Path

from ..experiment import Experiment, Run
from ..network import Network
from ..options.classification import NO_AUGMENTATION, Data, Training


def config():
    return Experiment(
        network=Network(
            patch_size=4,
            hidden_dim=64,
            depth=4,
            num_heads=4,
        ),
        data=Data(dataset="digits", image_size=(16, 16)),
        augmentation=dataclasses.replace(NO_AUGMENTATION, shift=2),
        training=Training(
            epochs=40, global_batch_size=32, base_learning_rate=4.8e-2, warmup_epochs=4
        ),
        run=Run(run_dir=Path("runs/digits")),
    )
