"""The models in the paper's comparisons, as changes to the network of a recipe."""

PLAIN = {"broadcast": "none"}
EIGHT = {"depth": 8, "mlp_ratio": 2.0}  # the MLP then has as many weights as the MSA
HEADS = (1, 2, 4, 8)  # the project's choice

MODELS = {
    "plain": PLAIN,
    "cb": {"broadcast": "cb"},
    "cbs": {"broadcast": "cbs"},
    "cbs_from_one": {"broadcast": "cbs", "initial_scale": 1.0},
    "cb_msa": {"broadcast": "cb", "broadcast_place": "msa_end"},
    "cb_both": {"broadcast": "cb", "broadcast_place": "both"},
    "cb_front": {"broadcast": "cb", "broadcast_place": "mlp_front"},
    "cb_mid": {"broadcast": "cb", "broadcast_place": "mlp_mid"},
    "cb_upper": {"broadcast": "cb", "broadcast_blocks": "upper"},
    "cb_max": {"broadcast": "cb", "context": "max"},
    "cb_token": {"broadcast": "cb", "context": "token"},
    "uniform_replaced": {**PLAIN, "uniform_head": "replaced"},
    "uniform_compensated": {**PLAIN, "uniform_head": "compensated"},
    "uniform_attached": {**PLAIN, "uniform_head": "attached"},
    "squeeze_excitation": {**PLAIN, "squeeze_excitation": True},
    "eight": {**PLAIN, **EIGHT},
    "eight_extra_msa": {**PLAIN, **EIGHT, "extra_branch": "msa"},
    "eight_extra_mlp": {**PLAIN, **EIGHT, "extra_branch": "mlp"},
    **{f"plain_{heads}_heads": {**PLAIN, "num_heads": heads} for heads in HEADS},
    **{f"cb_{heads}_heads": {"broadcast": "cb", "num_heads": heads} for heads in HEADS},
}
