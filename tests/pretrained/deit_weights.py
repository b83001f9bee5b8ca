"""State dicts of the shapes that DeiT's have."""

import numpy as np

BLOCK = {
    "norm1.weight": (1,),
    "norm1.bias": (1,),
    "attn.qkv.weight": (3, 1),
    "attn.qkv.bias": (3,),
    "attn.proj.weight": (1, 1),
    "attn.proj.bias": (1,),
    "norm2.weight": (1,),
    "norm2.bias": (1,),
    "mlp.fc1.weight": (4, 1),
    "mlp.fc1.bias": (4,),
    "mlp.fc2.weight": (1, 4),
    "mlp.fc2.bias": (1,),
}


def state_of(dim, depth=12, patch_size=16, tokens=197, classes=1000):
    """Random weights by timm's names, of a plain ViT; DeiT's shapes by default."""
    rng = np.random.default_rng(dim)
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, tokens, dim),
        "patch_embed.proj.weight": (dim, 3, patch_size, patch_size),
        "patch_embed.proj.bias": (dim,),
        **{
            f"blocks.{i}.{name}": tuple(dim * times for times in shape)
            for i in range(depth)
            for name, shape in BLOCK.items()
        },
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "head.weight": (classes, dim),
        "head.bias": (classes,),
    }
    return {
        name: rng.normal(scale=0.05, size=shape).astype("float32")
        for name, shape in shapes.items()
    }
