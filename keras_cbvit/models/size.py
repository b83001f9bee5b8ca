"""Counts the weights of a model."""

from keras_cbvit.models.spec import SE_RATIO, ViTSpec


def count_weights(spec: ViTSpec) -> int:
    """Returns the number of weights of a spec's model, without building it."""

    def dense(inputs, outputs, bias=True):
        return inputs * outputs + (outputs if bias else 0)

    dim, hidden = spec.hidden_dim, spec.mlp_dim
    rows, columns = spec.grid
    prefix = spec.num_prefix_tokens
    norm = 2 * dim
    msa = dense(dim, 3 * dim, spec.qkv_bias) + dense(dim, dim)
    msa += 2 * (norm // spec.num_heads) if spec.qk_norm else 0
    widened = 2 * hidden if spec.activation == "swiglu" else hidden
    mlp = dense(dim, widened) + dense(hidden, dim)
    extra = {"none": 0, "msa": norm + msa, "mlp": norm + mlp}[spec.extra_branch]
    if spec.uniform_head != "none":
        heads, channels = spec.uniform_heads
        msa = dense(dim, 3 * heads * channels) + dense(dim, channels)
        msa += dense((heads + 1) * channels, dim)
    block = 2 * norm + msa + mlp
    if spec.layer_scale is not None:
        block += 2 * dim
    if spec.squeeze_excitation:
        squeezed = max(dim // SE_RATIO, 1)
        block += dense(dim, squeezed) + dense(squeezed, dim)
    count = dense(spec.patch_size**2 * spec.input_shape[2], dim)
    count += (prefix + rows * columns) * dim
    count += prefix * dim if spec.prefix_position_embedding else 0
    count += spec.depth * block + extra + norm + (norm if spec.pre_norm else 0)
    for (_, place), (scale, _) in spec.contexts().items():
        count += (hidden if place == "mlp_mid" else dim) if scale else 0
    if spec.classes is None:
        return count
    features = 2 * dim if spec.pooling == "token_avg" else dim
    heads = 2 if spec.pooling == "distilled" else 1
    return count + heads * dense(features, spec.classes)
