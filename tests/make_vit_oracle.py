"""Writes `tests/data/vit_dinov2.npz`: a ViT like DINOv2 in float64 by PyTorch and timm.

    python -m tests.make_vit_oracle

Run once, where PyTorch 2.13 and timm 1.0.31 are installed; the tests read the file
everywhere. The network has LayerScale, register tokens with position embeddings
(`"with"`) and without (`"without"`, as DINOv2's own), layer norms of another epsilon,
and images that are normalized by another mean and deviation than ImageNet's.
"""

import functools
import json
from pathlib import Path

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

FILE = Path(__file__).parent / "data" / "vit_dinov2.npz"
SIZE, OTHER_SIZE, CLASSES = (14, 21), (28, 14), 5
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
EPSILON = 1e-3
# The case, and timm's `no_embed_class`.
CASES = {"with": False, "without": True}


class Broadcast(torch.nn.Module):
    """CB at the end of an MLP: before timm's LayerScale."""

    def __init__(self, fc2):
        super().__init__()
        self.fc2 = fc2

    def forward(self, x):
        x = self.fc2(x)
        return 0.5 * x + 0.5 * x.mean(dim=1, keepdim=True)


def build(no_embed_class, random):
    """A model whose weights are all random, so that none is what it starts with."""
    model = VisionTransformer(
        img_size=SIZE,
        patch_size=7,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=CLASSES,
        init_values=1e-5,
        reg_tokens=4,
        no_embed_class=no_embed_class,
        dynamic_img_size=True,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=EPSILON),
    )
    for name, weight in sorted(model.named_parameters()):
        values = random.normal(scale=0.2, size=weight.shape)
        if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
            values += 1
        weight.data = torch.tensor(values.astype("float32")).double()
    return model.double().eval()


def normalized(images):
    x = (images / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(x.transpose(0, 3, 1, 2))


def results(model, images, other_images, labels):
    """What the model gives, and its gradients, by name."""
    tokens = []
    hooks = [
        block.register_forward_hook(lambda module, _, y: tokens.append(y.detach()))
        for block in model.blocks
    ]
    features = model.forward_features(normalized(images))
    logits = model.forward_head(features)
    for hook in hooks:
        hook.remove()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    other = model(normalized(other_images))
    gradients = {
        "reg_token": model.reg_token,
        "pos_embed": model.pos_embed,
        "ls1.gamma": model.blocks[0].ls1.gamma,
    }
    return {
        "logits": logits.detach().numpy(),
        "features": features.detach().numpy(),
        "blocks": torch.stack(tokens).numpy(),
        "other_logits": other.detach().numpy(),
        "loss": np.array(loss.item()),
        **{f"gradient/{name}": w.grad.numpy() for name, w in gradients.items()},
    }


def main():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    other_images = random.integers(0, 256, (2, *OTHER_SIZE, 3)).astype("uint8")
    labels = torch.tensor([1, 4])
    arrays = {
        "images": images,
        "other_images": other_images,
        "labels": labels.numpy(),
        "versions": np.array(json.dumps([torch.__version__, timm.__version__])),
    }
    for case, no_embed_class in CASES.items():
        model = build(no_embed_class, random)
        for name, weight in model.state_dict().items():
            arrays[f"{case}/weight/{name}"] = weight.numpy().astype("float32")
        for name, array in results(model, images, other_images, labels).items():
            arrays[f"{case}/{name}"] = array
        for block in model.blocks:
            block.mlp.fc2 = Broadcast(block.mlp.fc2)
        with torch.no_grad():
            arrays[f"{case}/cb_logits"] = model(normalized(images)).numpy()
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE} has {FILE.stat().st_size:,} bytes.")


if __name__ == "__main__":
    main()
