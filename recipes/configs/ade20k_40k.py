"""The shorter of the paper's two trainings of UperNet on ADE20K (Table 7).

    python -m recipes.train ade20k_40k --dataset FOLDER --weights VIT.keras \\
        --precision mixed_bfloat16

It is `ade20k` with 40,000 iterations instead of 160,000; the learning rate falls to 0
over these.
"""

import dataclasses
from pathlib import Path

from . import ade20k


def config():
    full = ade20k.config()
    return dataclasses.replace(
        full,
        training=dataclasses.replace(full.training, iterations=40_000),
        run=dataclasses.replace(full.run, run_dir=Path("runs/ade20k_40k")),
    )
