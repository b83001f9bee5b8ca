import gc
import weakref

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import analysis
from keras_cbvit.analysis import attention
from keras_cbvit.layers import EncoderBlock, UniformHeadSelfAttention
from tests.compare import assert_close, dtype_of, to_numpy
from tests.tiny import assert_same_values, fill, images, predict, tiny, train, values


def random_maps(tokens, shape=(2, 3), seed=0):
    """Attention that ranges from nearly uniform to nearly one-hot."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*shape, tokens, tokens))
    logits *= np.linspace(0.1, 20, tokens)[:, None]
    maps = np.exp(logits - logits.max(-1, keepdims=True))
    return maps / maps.sum(-1, keepdims=True)


def one_map(rows):
    """Maps of one image and one head."""
    return np.array(rows, "float32")[None, None]


def entropy_by_loops(maps):
    batch, heads, tokens, _ = maps.shape
    entropy = np.zeros((batch, heads))
    for b, h, i, j in np.ndindex(maps.shape):
        if maps[b, h, i, j] > 0:
            a = float(maps[b, h, i, j])
            entropy[b, h] -= a * np.log(a) / tokens
    return entropy


def distance_by_loops(maps, rows, columns):
    first = maps.shape[-1] - rows * columns
    places = [
        (row / max(rows - 1, 1), column / max(columns - 1, 1))
        for row in range(rows)
        for column in range(columns)
    ]
    distance = np.zeros(maps.shape[:2])
    for i, (y, x) in enumerate(places):
        for j, (other_y, other_x) in enumerate(places):
            if i != j:
                apart = np.hypot(y - other_y, x - other_x)
                distance += maps[:, :, first + i, first + j] * apart / len(places)
    return distance


# Measures of maps.


@pytest.mark.parametrize("tokens", [1, 2, 13])
def test_entropy_is_that_of_loops(tokens):
    maps = random_maps(tokens)
    entropy = analysis.attention_entropy(maps)
    assert_close(entropy, entropy_by_loops(maps))
    assert dtype_of(entropy) == "float32"


@pytest.mark.parametrize(
    ("rows", "nats"),
    [
        (np.full((4, 4), 1 / 4), np.log(4)),
        (np.eye(4)[[1, 0, 3, 3]], 0.0),
        # Two blocks of two tokens; and three tokens that attend to one of two.
        (np.kron(np.eye(2), np.full((2, 2), 1 / 2)), np.log(2)),
        ([[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5]], np.log(2) / 3),
    ],
)
def test_entropy_of_maps_made_by_hand(rows, nats):
    assert_close(analysis.attention_entropy(one_map(rows)), [[nats]])


@pytest.mark.parametrize(
    ("grid", "tokens"), [((3, 4), 12), ((3, 4), 13), ((1, 5), 6), ((4, 1), 6)]
)
def test_distance_is_that_of_loops(grid, tokens):
    maps = random_maps(tokens)
    distance = analysis.relative_distance(maps, grid)
    assert_close(distance, distance_by_loops(maps, *grid))
    assert to_numpy(distance).min() > 0.05


def test_distance_of_maps_made_by_hand():
    # A square: two neighbors at 1, one at √2, of 1/4 each.
    uniform = one_map(np.full((4, 4), 1 / 4))
    assert_close(analysis.relative_distance(uniform, (2, 2)), [[(2 + 2**0.5) / 4]])
    # With a class token before, each gives 1/5; the class token is nowhere.
    uniform = one_map(np.full((5, 5), 1 / 5))
    assert_close(analysis.relative_distance(uniform, (2, 2)), [[(2 + 2**0.5) / 5]])
    opposite = one_map(np.eye(4)[::-1])
    assert_close(analysis.relative_distance(opposite, (2, 2)), [[2**0.5]])
    # To itself, or to the class token: no distance.
    assert_close(analysis.relative_distance(one_map(np.eye(4)), (2, 2)), [[0]])
    to_class = one_map(np.eye(5)[[0, 0, 0, 0, 0]])
    assert_close(analysis.relative_distance(to_class, (2, 2)), [[0]])
    # In a row of three, the neighbor is half a side away.
    next_one = one_map(np.eye(3)[[1, 2, 1]])
    assert_close(analysis.relative_distance(next_one, (1, 3)), [[0.5]])
    assert_close(analysis.relative_distance(next_one, (3, 1)), [[0.5]])


def test_a_grid_of_more_tokens_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"grid=\(2, 3\) has 6 patch tokens, but"):
        analysis.relative_distance(random_maps(5), (2, 3))


@pytest.mark.parametrize("tokens", [2, 13])
def test_the_jacobian_norm_is_the_sum_of_singular_values(tokens):
    maps = random_maps(tokens, shape=(1, 2))
    expected = np.zeros(maps.shape[:-1])
    for place in np.ndindex(expected.shape):
        a = maps[place]
        jacobian = np.diag(a) - np.outer(a, a)
        expected[place] = np.linalg.svd(jacobian, compute_uv=False).sum()
    assert_close(analysis.softmax_jacobian_norm(maps), expected)


def test_the_jacobian_is_that_of_the_softmax():
    # By central differences of the softmax itself, in float64.
    rng = np.random.default_rng(0)
    z = rng.normal(size=6)

    def softmax(z):
        return np.exp(z) / np.exp(z).sum()

    step = 1e-5
    jacobian = np.stack(
        [(softmax(z + d) - softmax(z - d)) / (2 * step) for d in step * np.eye(6)]
    )
    norm = np.linalg.norm(jacobian, "nuc")
    assert_close(analysis.softmax_jacobian_norm(softmax(z)), norm)


def test_the_jacobian_norm_is_largest_at_uniform_attention():
    uniform = np.full(5, 1 / 5)
    one_hot = np.eye(5)[0]
    assert_close(analysis.softmax_jacobian_norm(uniform), 1 - 1 / 5)
    assert_close(analysis.softmax_jacobian_norm(one_hot), 0)
    # It falls in whatever direction one goes from there.
    rng = np.random.default_rng(0)
    step = rng.normal(size=(1000, 5))
    step -= step.mean(axis=1, keepdims=True)
    step *= 0.01 / np.linalg.norm(step, axis=1, keepdims=True)
    found = analysis.softmax_jacobian_norm(uniform + step)
    assert_close(found, np.full(1000, 1 - 1 / 5 - 0.01**2))


# Maps of models.


@pytest.fixture(scope="module")
def plain(oracle_arguments, timm_state):
    return keras_cbvit.ViTCB(weights=timm_state, **oracle_arguments, broadcast="none")


def test_maps_are_those_of_timm(plain, oracle):
    maps = analysis.attention_maps(plain, oracle["images"])
    assert len(maps) == 4
    for found, expected in zip(maps, oracle["plain/attention"], strict=True):
        assert isinstance(found, np.ndarray) and found.dtype == np.float32
        assert_close(found, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_statistics_are_those_of_timms_maps(plain, oracle, batch_size):
    expected = oracle["plain/attention"]
    found = analysis.attention_statistics(plain, oracle["images"], batch_size)
    assert_close(found["entropy"], oracle["plain/attention_entropy"], atol=1e-5)
    # The images are of 32x48 pixels, the patches of 8x8.
    distance = [distance_by_loops(maps, 4, 6).mean() for maps in expected]
    assert_close(found["distance"], distance, atol=1e-5)
    norm = 1 - (expected**2).sum(axis=-1).mean(axis=(1, 2, 3))
    assert_close(found["jacobian_norm"], norm, atol=1e-5)


@pytest.mark.any_backend
def test_blocks_are_in_their_order_however_many_they_are():
    # By name, block_10 would come before block_2.
    model = tiny(depth=11)
    for i in range(11):
        # Queries of 0 attend to all alike.
        if i != 2:
            qkv = model.get_layer(f"block_{i}").attention.qkv
            qkv.kernel.assign(np.zeros(qkv.kernel.shape))
        else:
            fill(model.get_layer("block_2"))
    maps = analysis.attention_maps(model, images(model))
    assert [np.ptp(m) > 0.01 for m in maps] == [i == 2 for i in range(11)]


@pytest.mark.any_backend
def test_images_may_come_one_by_one():
    model = fill(tiny())
    x = images(model, 5).astype("uint8")
    found = analysis.attention_statistics(model, (image for image in x), 2)
    maps = analysis.attention_maps(model, x)
    assert_close(found["entropy"], [entropy_by_loops(m).mean() for m in maps])


@pytest.mark.any_backend
def test_the_model_stays_as_it_is():
    model = fill(tiny(broadcast="cbs", drop_path_rate=0.5))
    train(model)
    before, config, predictions = values(model), model.get_config(), predict(model)
    block = model.get_layer("block_1")
    analysis.attention_maps(model, images(model))
    analysis.attention_statistics(model, images(model))
    assert_same_values(values(model), before)
    assert model.get_config() == config
    np.testing.assert_array_equal(predict(model), predictions)
    # The layers of its graph are called once, as before, those inside them never.
    assert block.input is model.get_layer("block_0").output
    assert block.output is model.get_layer("norm").input
    assert not hasattr(block.norm1, "input")
    assert not hasattr(block.attention, "input")
    assert model.compiled and model.optimizer.iterations.numpy() == 1


def nodes(model):
    """How many nodes come in and go out of everything in a model, and inside it."""
    layers = {id(x): x for x in [*model._flatten_layers(), *model.operations]}
    return [
        (x.name, len(x._inbound_nodes), len(x._outbound_nodes)) for x in layers.values()
    ]


@pytest.mark.any_backend
def test_no_nodes_are_left_in_the_model(tmp_path):
    model = fill(tiny())
    before = nodes(model)
    for _ in range(3):
        analysis.attention_maps(model, images(model))
        analysis.attention_statistics(model, images(model))
    assert nodes(model) == before
    assert not any("call" in vars(block) for block in model.blocks)


def test_nothing_is_kept_of_what_was_measured(monkeypatch):
    kept = []

    class Recorded(attention._AttentionObserver):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            kept.append(weakref.ref(self))

    monkeypatch.setattr(attention, "_AttentionObserver", Recorded)
    model = fill(tiny(depth=1))
    counts = []
    for calls in (5, 45) if keras.backend.backend() == "torch" else (3,):
        for _ in range(calls):
            analysis.attention_maps(model, images(model))
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert len(kept) >= 3
    assert not any(reference() for reference in kept)
    assert counts[-1] - counts[0] < 100  # each call makes thousands


def sequential(vit):
    return keras.Sequential([keras.Input(vit.input_shape[1:]), vit])


def functional(vit):
    x = keras.Input(vit.input_shape[1:])
    return keras.Model(x, keras.layers.Dense(2)(vit(keras.layers.Rescaling(0.5)(x))))


class Subclassed(keras.Model):
    def __init__(self, vit):
        super().__init__()
        self.vit = vit
        self.built = True

    def call(self, inputs):
        return self.vit(0.5 * inputs)


@pytest.mark.parametrize(
    ("around", "factor"),
    [
        (sequential, 1),
        pytest.param(functional, 0.5, marks=pytest.mark.any_backend),
        (Subclassed, 0.5),
        pytest.param(
            lambda vit: sequential(sequential(functional(vit))),
            0.5,
            marks=pytest.mark.any_backend,
        ),
    ],
)
def test_a_model_may_be_in_any_other(around, factor):
    vit = fill(tiny(depth=2))
    x = images(vit)
    expected = analysis.attention_maps(vit, factor * x)
    numbers = analysis.attention_statistics(vit, factor * x)
    model = around(vit)
    for found, maps in zip(analysis.attention_maps(model, x), expected, strict=True):
        assert_close(found, maps, atol=1e-5)
        assert np.ptp(found) > 0.01
    found = analysis.attention_statistics(model, x)
    for name, number in numbers.items():
        assert_close(found[name], number, atol=1e-5)


@pytest.mark.any_backend
def test_blocks_of_two_models_of_the_same_names_are_in_the_order_they_run_in():
    first, second = (fill(tiny(name=name), seed=i) for i, name in enumerate("ab"))
    x = keras.Input(first.input_shape[1:])
    model = keras.Model(x, keras.layers.Average()([first(x), second(x)]))
    pixels = images(first)
    maps = analysis.attention_maps(model, pixels)
    expected = [
        *analysis.attention_maps(first, pixels),
        *analysis.attention_maps(second, pixels),
    ]
    for found, other in zip(maps, expected, strict=True):
        assert_close(found, other, atol=1e-5)


@pytest.mark.any_backend
def test_a_model_that_shares_its_blocks_is_measured():
    vit = fill(tiny(depth=4, input_shape=(16, 16, 3)))
    pyramid = keras_cbvit.feature_pyramid(vit, (0, 1, 2, 3))
    x = images(vit)
    pairs = zip(
        analysis.attention_maps(pyramid, x),
        analysis.attention_maps(vit, x),
        strict=True,
    )
    for found, expected in pairs:
        assert_close(found, expected, atol=1e-5)


def test_what_is_no_model_of_one_input_is_refused():
    with pytest.raises(ValueError, match="model=3 must be a keras.Model"):
        analysis.attention_maps(3, np.zeros((1, 8, 12, 3)))
    vit = tiny()
    inputs = [keras.Input((8, 12, 3)) for _ in range(2)]
    model = keras.Model(inputs, [vit(x) for x in inputs], name="two")
    with pytest.raises(ValueError, match="two has several inputs"):
        analysis.attention_maps(model, np.zeros((1, 8, 12, 3)))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_analyzed_in_float32(dtype):
    mixed, wide = fill(tiny(dtype=dtype)), fill(tiny())
    x = images(wide)
    found, expected = (
        analysis.attention_maps(mixed, x),
        analysis.attention_maps(wide, x),
    )
    assert [maps.dtype for maps in found] == ["float32", "float32"]
    assert_close(found[0], expected[0], atol=0.05)
    assert_close(found[1].sum(axis=-1), np.ones((4, 2, 7)), atol=0.02)


def test_any_attention_of_a_block_is_looked_at():
    tokens = keras.Input((5, 8))
    attention = UniformHeadSelfAttention(2, 4, name="attention")
    block = EncoderBlock(2, 16, attention=attention, name="block_0")
    model = keras.Model(tokens, block(tokens))
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    (maps,) = analysis.attention_maps(fill(model), x)
    assert maps.shape == (3, 3, 5, 5)
    assert_close(maps[:, 2], np.full((3, 5, 5), 1 / 5))
    assert np.ptp(maps[:, :2]) > 0.05


def test_a_model_without_blocks_is_refused():
    x = keras.Input((4, 4, 3))
    model = keras.Model(x, keras.layers.Flatten()(x), name="flat")
    with pytest.raises(ValueError, match="flat has no EncoderBlock"):
        analysis.attention_maps(model, np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="flat has no PatchEmbedding"):
        analysis.attention_statistics(model, np.zeros((1, 4, 4, 3)))


@pytest.mark.parametrize("function", ["attention_maps", "attention_statistics"])
def test_images_of_another_size_are_refused(function):
    with pytest.raises(ValueError, match=r"\(12, 8, 3\) do not match .* \(8, 12, 3\)"):
        getattr(analysis, function)(tiny(), np.zeros((2, 12, 8, 3)))


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="images is empty"):
        analysis.attention_statistics(tiny(), [])


def test_batches_of_no_images_are_refused():
    with pytest.raises(ValueError, match="batch_size=0 must be a whole number"):
        analysis.attention_statistics(tiny(), np.zeros((2, 8, 12, 3)), batch_size=0)
