"""A plain ViT that others have trained on ImageNet-1k becomes a CB ViT.

    python -m recipes.train imagenet_anneal --data-dir DIR --precision mixed_bfloat16 \\
        --publish vitcb_s.imagenet --weights-dir FOLDER

DeiT's weights as CB_S, whose Λ = 0 changes nothing. In 20 of the 30 epochs Λ goes to 1;
CB_S is then exactly a CB model, which is saved. Learning rate, weight decay, batch and
augmentation are those that DeiT III fine-tunes with at 224 pixels, for 20 epochs.
`--model` is vitcbs_ and ti, s or b. The data are as for `imagenet`.
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
