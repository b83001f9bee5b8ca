"""Convert a plain ViT pretrained on ImageNet-1k to a CB ViT by annealing.

    python -m recipes.train imagenet_anneal --data-dir DIR --precision mixed_bfloat16 \\
        --publish vitcb_s.imagenet --weights-dir FOLDER

Starts from DeiT's weights as a CB_S model with Λ = 0, which computes the same function.
Λ increases to 1 during the first 20 of the 30 epochs. The result is equivalent to a CB
model and saved as one. Learning rate, weight decay, batch size and augmentation are
those of DeiT III's fine-tuning at 224 pixels (20 epochs). `--model` is vitcbs_ti,
vitcbs_s or vitcbs_b. The data are the same as for `imagenet`.
"""

import dataclasses
from pathlib import Path

from . import imagenet


def config():
    scratch = imagenet.config()
    return dataclasses.replace(
        scratch,
        network=dataclasses.replace(
            scratch.network, model="vitcbs_s", weights="imagenet"
        ),
        augmentation=dataclasses.replace(scratch.augmentation, repeats=1, erasing=0.0),
        training=dataclasses.replace(
            scratch.training,
            epochs=30,
            global_batch_size=512,
            base_learning_rate=2e-5,
            weight_decay=0.1,
            ema_decay=None,
            anneal_context=20 * 2502,
        ),
        run=dataclasses.replace(scratch.run, run_dir=Path("runs/imagenet_anneal")),
    )
