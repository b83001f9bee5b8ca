"""The models that `recipes.benchmark.model` measures, each in its process.

All are ViTs of the same size that end in 1000 logits, with no dropout and no drop path,
trained by AdamW on cross-entropy. They are used as their users do: Keras's by `predict`
and `fit`, timm's in the loop of PyTorch's own tutorials, each fed from arrays.

A request is a dict: `"do"`, `"inference"` or `"training"`. The answer has the
`"seconds"` that all batches but the first take, the `"first"` batch's, and the
`"memory"` in bytes at its peak so far, less what was taken before the model was built.
With a true `"profile"` it has the seconds of the `"operations"` instead.
What comes after the last batch does not count: TensorFlow's `fit` waits up to five
seconds for its data's threads to end.
"""

import functools
import time
from pathlib import Path

from .peer import serve
from .profiler import operation_seconds

# hidden_dim and number of heads; depth 12, MLPs four times as wide
SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}
CLASSES = 1000


def keras_cbvit(broadcast, remat=False, **setup):
    """This package's; the images are taken as normalized, as the others do."""

    import keras_cbvit

    def build(size, image_size):
        return getattr(keras_cbvit, f"ViTCB_{size}")(
            weights=None,
            broadcast=broadcast,
            remat=remat,
            input_shape=(image_size, image_size, 3),
            include_preprocessing=False,
            classifier_activation=None,
        )

    return _keras(build, ("keras",), **setup)


def keras_hub(model, **setup):
    """KerasHub's `ViT` or `DeiT`, which has a second class token."""
    import keras_hub

    def build(size, image_size):
        hidden_dim, heads = SIZES[size]
        mlp_dim = "intermediate_dim" if model == "DeiT" else "mlp_dim"
        backbone = getattr(keras_hub.models, f"{model}Backbone")(
            image_shape=(image_size, image_size, 3),
            patch_size=16,
            num_layers=12,
            num_heads=heads,
            hidden_dim=hidden_dim,
            **{mlp_dim: 4 * hidden_dim},
        )
        return getattr(keras_hub.models, f"{model}ImageClassifier")(backbone, CLASSES)

    return _keras(build, ("keras-hub", "keras"), **setup)


def kimm(**setup):
    """kimm's ViT."""

    import kimm

    def build(size, image_size):
        name = {"Ti": "Tiny", "S": "Small", "B": "Base"}[size]
        return getattr(kimm.models, f"VisionTransformer{name}16")(
            input_shape=(image_size, image_size, 3),
            include_preprocessing=False,
            classifier_activation=None,
            weights=None,
        )

    return _keras(build, ("kimm", "keras"), **setup)


def timm(size, image_size, batch_size, precision, steps, compiled=False):
    """timm's ViT, eager or through torch.compile."""
    import torch

    from .input_peers import import_torchvision

    import_torchvision()
    import timm

    name = {"Ti": "tiny", "S": "small", "B": "base"}[size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = _data(image_size, batch_size, steps, channels_first=True)
    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays))
    batches = torch.utils.data.DataLoader(data, batch_size)
    before = _memory("torch")
    model = timm.create_model(
        f"vit_{name}_patch16_224", img_size=image_size, num_classes=CLASSES
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    run = torch.compile(model) if compiled else model
    mixed = torch.autocast(
        device, torch.bfloat16, enabled=precision == "mixed_bfloat16"
    )

    def inference(clock):
        model.eval()
        outputs = []
        with torch.inference_mode(), mixed:
            for images, _ in batches:
                outputs.append(run(images.to(device)).float().cpu())
                clock.batch_ends()
        torch.cat(outputs).numpy()

    def training(clock):
        model.train()
        total = 0.0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            with mixed:
                loss = torch.nn.functional.cross_entropy(run(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            clock.batch_ends()

    work = {"inference": inference, "training": training}
    return _measured(work, before, "torch"), ("timm", "torch")


def matmul(size, image_size, batch_size, precision, steps):
    """The product of two large matrices: a ceiling for what models can reach.

    The answer has the `"flops"` per second.
    """
    import keras
    import numpy as np
    from keras import ops

    backend = keras.backend.backend()
    side = 8192 if _has_gpu(backend) else 2048
    dtype = "bfloat16" if precision == "mixed_bfloat16" else "float32"
    a = ops.cast(np.ones((side, side), "float32"), dtype)

    def respond(request):
        start = time.perf_counter()
        product = a
        for _ in range(4):
            product = ops.matmul(product, a)
        float(product[0, 0])  # waits for it
        return {"flops": 4 * 2 * side**3 / (time.perf_counter() - start)}

    return respond, ("keras", backend)


class _Clock:
    """Takes the time of the first batch, and of the others together."""

    def __init__(self):
        self.first = None
        self.start = time.perf_counter()

    def batch_ends(self):
        now = time.perf_counter()
        if self.first is None:
            self.first, self.start = now - self.start, now
        self.seconds = now - self.start


def _keras(build, packages, size, image_size, batch_size, precision, steps):
    """What answers for a Keras model, and the names of its packages."""
    import keras

    backend = keras.backend.backend()
    keras.config.set_dtype_policy(precision)
    images, labels = _data(image_size, batch_size, steps)
    before = _memory(backend)
    model = build(size, image_size)

    class BatchEnds(keras.callbacks.Callback):
        def __init__(self, clock):
            super().__init__()
            self.clock = clock

        def on_predict_batch_end(self, batch, logs=None):
            self.clock.batch_ends()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])  # waits for it
            self.clock.batch_ends()

    def inference(clock):
        model.predict(
            images, batch_size=batch_size, verbose=0, callbacks=[BatchEnds(clock)]
        )

    def training(clock):
        if not model.compiled:  # after the first inference, as a user who loads a model
            model.compile(
                optimizer=keras.optimizers.AdamW(1e-4),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        model.fit(
            images,
            labels,
            batch_size=batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[BatchEnds(clock)],
        )

    work = {"inference": inference, "training": training}
    return _measured(work, before, backend), (*packages, backend)


def _data(image_size, batch_size, steps, channels_first=False):
    """Noise of N(0, 1) as float32 images, and labels."""
    import numpy as np

    random = np.random.default_rng(0)
    number = batch_size * (1 + steps)  # the first is not timed with the others
    images = random.standard_normal((number, image_size, image_size, 3), "float32")
    if channels_first:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images, random.integers(CLASSES, size=number)


def _measured(work, before, backend):
    def respond(request):
        clock = _Clock()
        run = functools.partial(work[request["do"]], clock)
        if request.get("profile"):
            return {"operations": operation_seconds(backend, run)}
        run()
        memory = _memory(backend) - before
        return {"first": clock.first, "seconds": clock.seconds, "memory": memory}

    return respond


def _has_gpu(backend):
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    import keras

    return not keras.distribution.list_devices()[0].startswith("cpu")


def _memory(backend):
    """Bytes at the peak so far: of the GPU if there is one, else of the process."""
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    if backend == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats()
        if statistics:
            return statistics["peak_bytes_in_use"]
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    # Not getrusage's, which begins with that of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status does not tell the memory's peak (VmHWM).")


if __name__ == "__main__":
    peers = keras_cbvit, keras_hub, kimm, timm, matmul
    serve({function.__name__: function for function in peers})
