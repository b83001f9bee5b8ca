"""A ViT-S with CB that gives each image any number of labels.

    python -m recipes.train multi_label --dataset labels.csv --weights WEIGHTS

The CSV file has the columns `image`, paths relative to it, and `labels`, names with |
between them, or a column of 0 and 1 for each class. Fine-tuned with a small rate; from
random weights it takes more images and epochs.
"""

from pathlib import Path

from ..experiment import Experiment, Run
from ..network import Network
from ..options.classification import NO_AUGMENTATION
from ..options.multi_label import Augmentation, Data, Training


def config():
    return Experiment(
        network=Network(model="vitcb_s", drop_path_rate=0.1),
        data=Data(),
        augmentation=Augmentation(
            **{**vars(NO_AUGMENTATION), "random_resized_crop": True, "flip": True}
        ),
        training=Training(
            epochs=30, global_batch_size=64, base_learning_rate=1e-3, warmup_epochs=3
        ),
        run=Run(run_dir=Path("runs/multi_label")),
    )
