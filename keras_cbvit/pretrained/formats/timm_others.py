"""Networks of timm that resemble its Vision Transformer but are not supported."""

# Names of weights that reveal networks with similar blocks but another function.
OTHERS = {
    r"relative_position|rel_pos": "relative position biases, as BEiT and SAM",
    r"attn\.(q_proj|q_bias)": "queries, keys and values apart, as EVA and BEiT",
    r"\.attns\.": "parallel attentions and MLPs in a block",
    r"\.in_proj\.": "an MLP in parallel to the attention",
    r"\.lambda_": "differential attention",
    r"blocks_token_only|cls_attn_blocks": "class attention, as CaiT and XCiT",
    r"\.attn\.gate\.": "a gate on the attention",
    r"(attn|mlp)\.norm\.": "norms within the attention or the MLP, as BEiT-3 and EVA",
    r"patch_embed\.backbone": "a CNN before the Transformer (a hybrid)",
    r"patch_embed\.norm": "a norm after the projection of patches, as AIMv2",
    r"pre_logits": "a representation layer before the head (pre_logits)",
}
# Architectures whose weights have the names and shapes of a plain ViT.
OTHERS_BY_NAME = {
    "_rpn_": "norms after the branches (res-post-norm)",
    "rope|vit_pe_": "a rotary position embedding",
}
