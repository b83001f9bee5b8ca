"""Train UperNet on CIFAR-10's mini ViT on CamVid, on two CPU cores.

    python -m recipes.train camvid_mini --dataset FOLDER
    python -m recipes.train camvid_mini --dataset FOLDER --weights vit_mini.cifar10

FOLDER is the same as for `camvid`. As in the paper, the ViT is pretrained for
classification: it is one of the three mini models of CIFAR-10, by default
`vitcb_mini.cifar10`, with resampled position embeddings. Images have half the height
and width, since the patches have 8x8 pixels. A run takes about half an hour on one
core; see docs/camvid.md for the results.
"""

import dataclasses
from pathlib import Path

from . import camvid


def config():
    full = camvid.config()
    return dataclasses.replace(
        full,
        network=dataclasses.replace(
            full.network,
            model=None,
            weights="vitcb_mini.cifar10",
            blocks=(1, 2, 3, 5),
            channels=32,
        ),
        data=dataclasses.replace(full.data, scale=(180, 240), image_size=(176, 176)),
        training=dataclasses.replace(
            full.training,
            iterations=1600,
            global_batch_size=8,
            warmup_iterations=100,
            learning_rate=1e-3,
            evaluation_iterations=200,
        ),
        run=dataclasses.replace(full.run, run_dir=Path("runs/camvid_mini")),
    )
