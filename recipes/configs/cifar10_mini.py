"""Train a mini ViT on CIFAR-10 on two CPU cores, to compare variants of CB.

    python -m recipes.train cifar10_mini

The model has 0.3 million parameters and 17 tokens. Images are only shifted and
mirrored: ten epochs are too few for DeiT's augmentation. See docs/cifar10.md and
docs/paper.md for results; the published weights are `vit_mini.cifar10`,
`vitcb_mini.cifar10` and `vitcbs_mini.cifar10`. TFDS downloads CIFAR-10 on first use.
"""

import dataclasses
from pathlib import Path

from ..experiment import Experiment, Run
from ..network import Network
from ..options.classification import NO_AUGMENTATION, Data, Training


def config():
    return Experiment(
        network=Network(
            patch_size=8,
            hidden_dim=64,
            depth=6,
            num_heads=2,
        ),
        data=Data(dataset="cifar10", image_size=(32, 32)),
        augmentation=dataclasses.replace(NO_AUGMENTATION, shift=4, flip=True),
        training=Training(
            epochs=10, global_batch_size=128, base_learning_rate=8e-3, warmup_epochs=1
        ),
        run=Run(run_dir=Path("runs/cifar10_mini")),
    )
