"""The models that the paper compares, as changes to the network of a recipe."""

PLAIN = {"broadcast": None}
EIGHT = {"depth": 8, "mlp_ratio": 2.0}  # an MLP of this ratio is as large as an MSA
HEADS = (1, 2, 4, 8)  # ours; the paper's are lost from the text we have

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
    "uniform_replaced": {**PLAIN, "ablation": "uniform_replaced"},
    "uniform_compensated": {**PLAIN, "ablation": "uniform_compensated"},
    "uniform_attached": {**PLAIN, "ablation": "uniform_attached"},
    "squeeze_excitation": {**PLAIN, "ablation": "squeeze_excitation"},
    "eight": {**PLAIN, **EIGHT},
    "eight_extra_msa": {**PLAIN, **EIGHT, "ablation": "extra_msa"},
    "eight_extra_mlp": {**PLAIN, **EIGHT, "ablation": "extra_mlp"},
    **{f"plain_{heads}_heads": {**PLAIN, "num_heads": heads} for heads in HEADS},
    **{f"cb_{heads}_heads": {"broadcast": "cb", "num_heads": heads} for heads in HEADS},
}
