"""Convert CIFAR-10's plain mini ViT to a CB ViT by annealing, on two CPU cores.

    python -m recipes.train cifar10_anneal

Starts from the published `vit_mini.cifar10` as a CB_S model with Λ = 0, which computes
the same function. Λ increases to 1 during the first half of training. The result is
equivalent to a CB model and saved as one. Other settings, except for the learning
rate, are those of `cifar10_mini`.
"""

import dataclasses
from pathlib import Path

from ..network import Network
from . import cifar10_mini


def config():
    scratch = cifar10_mini.config()
    return dataclasses.replace(
        scratch,
        network=Network(weights="vit_mini.cifar10", broadcast="cbs"),
        training=dataclasses.replace(
            scratch.training, base_learning_rate=4e-3, anneal_context=1950
        ),
        run=dataclasses.replace(scratch.run, run_dir=Path("runs/cifar10_anneal")),
    )
