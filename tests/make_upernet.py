"""Writes `tests/data/upernet.npz`: UperNet's parts in float64 by PyTorch.

    python -m tests.make_upernet

Run once, where PyTorch is installed; the tests read the file everywhere. Written after
mmsegmentation's `UPerHead` and `FCNHead` and the neck of XCiT's segmentation, in
PyTorch's own layers; only the names of the modules are ours.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

FILE = Path(__file__).parent / "data" / "upernet.npz"
CHANNELS, CLASSES, AUXILIARY_CHANNELS = 4, 3, 5
HIDDEN_DIM, GRID = 6, (7, 10)  # neither divides into 6 bins, and 7 is odd
SIZES = {"Ti": (192, 192), "S": (384, 384), "B": (768, 512)}


def resize(x, like):
    size = like.shape[2:]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel_size):
        super().__init__()
        self.convolution = nn.Conv2d(
            inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.norm(self.convolution(x)))


class PPM(nn.Module):
    def __init__(self, inputs, channels):
        super().__init__()
        for bins in (1, 2, 3, 6):
            setattr(self, f"projection_{bins}", ConvModule(inputs, channels, 1))
        self.fusion = ConvModule(inputs + 4 * channels, channels, 3)

    def forward(self, x):
        parts = [x]
        for bins in (1, 2, 3, 6):
            pooled = nn.AdaptiveAvgPool2d(bins)(x)
            parts.append(resize(getattr(self, f"projection_{bins}")(pooled), x))
        return self.fusion(torch.cat(parts, dim=1))


class FCNHead(nn.Module):
    """Without dropout, which is random."""

    def __init__(self, inputs, channels, classes):
        super().__init__()
        self.convolution = ConvModule(inputs, channels, 3)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x):
        return self.classifier(self.convolution(x))


class UPerHead(nn.Module):
    def __init__(self, inputs, channels, classes):
        super().__init__()
        self.pyramid_pooling = PPM(inputs[-1], channels)
        for i in range(3):
            setattr(self, f"lateral_{i}", ConvModule(inputs[i], channels, 1))
            setattr(self, f"output_{i}", ConvModule(channels, channels, 3))
        self.head = FCNHead(4 * channels, channels, classes)

    def forward(self, inputs):
        laterals = [getattr(self, f"lateral_{i}")(inputs[i]) for i in range(3)]
        laterals.append(self.pyramid_pooling(inputs[3]))
        for i in (3, 2, 1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1])
        outputs = [getattr(self, f"output_{i}")(laterals[i]) for i in range(3)]
        outputs.append(laterals[3])
        outputs = [outputs[0], *(resize(x, outputs[0]) for x in outputs[1:])]
        return self.head(torch.cat(outputs, dim=1))


class Neck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.up4_first = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.norm = nn.BatchNorm2d(channels)
        self.up4_second = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.up2 = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, inputs):
        x = self.up4_second(F.gelu(self.norm(self.up4_first(inputs[0]))))
        return [x, self.up2(inputs[1]), inputs[2], F.max_pool2d(inputs[3], 2)]


def fill(module):
    """Gives every weight a random value, so that none is what it starts with."""
    with torch.no_grad():
        for name, weight in module.state_dict().items():
            if name.endswith("running_var"):
                weight.uniform_(0.5, 2.0)
            elif weight.is_floating_point():
                weight.normal_(std=0.5)
    return module.double()


def weights(module):
    """The weights by our names, kernels with their channels last."""
    names = {
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
        "bias": "bias",
    }
    found = {}
    for path, weight in module.state_dict().items():
        *layers, name = path.split(".")
        if name == "num_batches_tracked":
            continue
        values = weight.numpy()
        if layers[-1] == "norm":
            name = {"weight": "gamma", "bias": "beta"}.get(name) or names[name]
        elif name == "weight":
            name, values = "kernel", values.transpose(2, 3, 1, 0)
        found["/".join([*layers, name])] = values
    return found


def channels_last(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def parameters(hidden_dim, channels):
    """Of all but the Vision Transformer, for 150 classes, and of the auxiliary head."""
    parts = [
        Neck(hidden_dim),
        UPerHead([hidden_dim] * 4, channels, 150),
        FCNHead(hidden_dim, 256, 150),
    ]
    neck, head, auxiliary = (sum(p.numel() for p in m.parameters()) for m in parts)
    return neck + head, auxiliary


def main():
    torch.manual_seed(0)
    neck = fill(Neck(HIDDEN_DIM))
    head = fill(UPerHead([HIDDEN_DIM] * 4, CHANNELS, CLASSES))
    auxiliary = fill(FCNHead(HIDDEN_DIM, AUXILIARY_CHANNELS, CLASSES))
    modules = {"feature_scales": neck, "uper_head": head, "auxiliary_head": auxiliary}
    maps = [
        torch.randn(2, HIDDEN_DIM, *GRID, dtype=torch.float64, requires_grad=True)
        for _ in range(4)
    ]
    arrays = {"maps": np.stack([channels_last(x) for x in maps])}
    for name, module in modules.items():
        arrays |= {f"{name}/{path}": w.copy() for path, w in weights(module).items()}
    for mode in ("eval", "train"):
        for module in modules.values():
            module.train(mode == "train")
        scales = neck(maps)
        for x in scales:
            x.retain_grad()
        logits, auxiliary_logits = head(scales), auxiliary(scales[2])
        for i, x in enumerate(scales):
            arrays[f"{mode}/scale_{i}"] = channels_last(x)
        arrays[f"{mode}/logits"] = channels_last(logits)
        arrays[f"{mode}/auxiliary"] = channels_last(auxiliary_logits)
    (logits.square().sum() + 0.4 * auxiliary_logits.square().sum()).backward()
    for i, x in enumerate(scales):
        arrays[f"train/gradient_{i}"] = channels_last(x.grad)
    for size, numbers in SIZES.items():
        arrays[f"parameters/{size}"] = np.array(parameters(*numbers))
    for name, array in arrays.items():
        if array.dtype == "float64":
            arrays[name] = array.astype("float32")  # to keep the file small
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
