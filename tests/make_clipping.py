"""Writes `tests/data/clipping.npz`: PyTorch's AdamW, gradients clipped and summed up.

    python -m tests.make_clipping

Run once, where PyTorch is installed; the tests read the file everywhere. A dense layer
learns from batches whose halves pull it elsewhere, one much stronger than the other:
who clips the gradients of each half gets other weights. In float64, by the loop of
PyTorch's documentation: `loss / parts`, `backward`, `clip_grad_norm_`, `step`.
"""

import numpy as np
import torch

from tests.recipes.training.dense import (
    BATCH_SIZE,
    BATCHES,
    CASES,
    EMA_DECAY,
    FEATURES,
    FILE,
    OUTPUTS,
    RATE,
)

WEIGHT_DECAY = 0.05


def problem():
    """First weights and batches, in float32's numbers."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype("float32").astype("float64")

    features = normal(BATCHES, BATCH_SIZE, FEATURES)
    features[:, BATCH_SIZE // 2 :] /= 16
    return {
        "kernel": normal(FEATURES, OUTPUTS),
        "bias": normal(OUTPUTS),
        "features": features,
        "targets": normal(BATCHES, BATCH_SIZE, OUTPUTS),
    }


def train(problem, accumulation_steps=1, clip_norm=None):
    """Weights and their moving averages after all batches."""
    parts = accumulation_steps
    kernel, bias = (
        torch.tensor(problem[name], requires_grad=True) for name in ("kernel", "bias")
    )
    optimizer = torch.optim.AdamW(
        [
            {"params": [kernel], "weight_decay": WEIGHT_DECAY},
            {"params": [bias], "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=(0.9, 0.999),
    )
    averages = [kernel.detach().clone(), bias.detach().clone()]
    for step in range(BATCHES):
        features, targets = (
            torch.tensor(problem[name][step]) for name in ("features", "targets")
        )
        loss = torch.nn.functional.mse_loss(features @ kernel + bias, targets)
        (loss / parts).backward()
        if (step + 1) % parts == 0:
            if clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_([kernel, bias], clip_norm)
                assert norm > 2 * clip_norm
            # Keras's epsilon is "epsilon hat" of Kingma and Ba, before the correction.
            update = (step + 1) // parts
            for group in optimizer.param_groups:
                group["eps"] = 1e-8 / (1 - 0.999**update) ** 0.5
            optimizer.step()
            optimizer.zero_grad()
        # They follow at every step, and are the weights until the second update.
        decay = EMA_DECAY ** (1 / parts) if step >= parts else 0.0
        averages = [
            decay * average + (1 - decay) * weight.detach()
            for average, weight in zip(averages, (kernel, bias), strict=True)
        ]
    names = ("kernel", "bias", "kernel_average", "bias_average")
    values = (kernel.detach(), bias.detach(), *averages)
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


if __name__ == "__main__":
    arrays = problem()
    for case, options in CASES.items():
        trained = train(arrays, **options)
        arrays |= {f"{case}/{name}": value for name, value in trained.items()}
    np.savez_compressed(FILE, **arrays)
