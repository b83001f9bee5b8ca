"""The sizes of the paper, and what models and weights are called."""

import re

SIZES = {
    "ti": {"hidden_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4},
    "s": {"hidden_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4},
    "b": {"hidden_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4},
}
FAMILIES = {None: "vit", "cb": "vitcb", "cbs": "vitcbs"}  # by `broadcast`


def architecture_name(config):
    """A model's name in names of weights, `"vitcb_s"`; `None` if of no known size.

    Raises:
        ValueError: if `config["broadcast"]` is unknown.
    """
    broadcast = config["broadcast"]
    if broadcast not in tuple(FAMILIES):
        raise ValueError(
            f"broadcast={broadcast!r} is unknown; use one of "
            f"{', '.join(map(repr, FAMILIES))}."
        )
    for size, numbers in SIZES.items():
        if numbers.items() <= config.items():
            return f"{FAMILIES[broadcast]}_{size}"
    return None


def check_weights_name(name, config):
    """Raises a ValueError unless weights of a model of `config` may be called `name`.

    `vitcb_s.imagenet` is for a ViTCB_S alone; a model of no known size may have any
    architecture name that is not one of the known.
    """
    if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", name):
        raise ValueError(
            f"name={name!r} must be architecture.tag in lower-case letters, digits and "
            "underscores, for instance 'vitcb_s.imagenet'."
        )
    architecture = name.partition(".")[0]
    actual = architecture_name(config)
    known = {f"{family}_{size}" for family in FAMILIES.values() for size in SIZES}
    if architecture != actual and (actual is not None or architecture in known):
        raise ValueError(
            f"name={name!r} is not for this model, which is "
            + (f"a {actual}." if actual else "of none of the paper's sizes.")
        )
