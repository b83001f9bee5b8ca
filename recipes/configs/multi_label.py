"""Fine-tune a ViT-S with CB as a multi-label classifier.

    python -m recipes.train multi_label --dataset labels.csv --weights WEIGHTS

The CSV file has a column `image` with paths relative to the file, and either a column
`labels` with names separated by |, or a column of 0 and 1 per class. The learning rate
is small, for fine-tuning; training from random weights requires more images and epochs.
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
