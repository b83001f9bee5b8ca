"""Train a ViT-Ti with CB on CIFAR-10: 32x32 images in 4x4 patches.

    python -m recipes.train cifar10 --publish vitcb_ti.cifar10

For one GPU; on 2 CPU cores use a smaller network, for instance `--hidden-dim 96
--depth 6 --num-heads 3 --epochs 10`. TFDS downloads CIFAR-10 on first use.
"""

from pathlib import Path

from ..experiment import Experiment, Run
from ..network import Network
from ..options.classification import Augmentation, Data, Training


def config():
    return Experiment(
        network=Network(model="vitcb_ti", patch_size=4, drop_path_rate=0.1),
        data=Data(dataset="cifar10", image_size=(32, 32)),
        augmentation=Augmentation(repeats=1, random_resized_crop=False, shift=4),
        training=Training(
            epochs=100, global_batch_size=256, base_learning_rate=4e-3, warmup_epochs=5
        ),
        run=Run(run_dir=Path("runs/cifar10")),
    )
