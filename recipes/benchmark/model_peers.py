"""Models for `recipes.benchmark.model`, each run in a separate process.

All are ViTs of the same size with 1000 logits, without dropout and drop path, trained
by AdamW on cross-entropy. They are used in the typical way: Keras models by `predict`
and `fit`, timm's model in the loop of PyTorch's tutorials, each fed from arrays; on a
GPU from one batch that is there, since copies would take longer than the models.

A request is a dict with `"do"`, `"inference"` or `"training"`. The answer contains the
`"seconds"` of all batches but the first, those of the `"first"` batch, and the peak
`"memory"` in bytes so far, minus the memory in use before building the model. If
`"profile"` is true, it contains the seconds of the `"operations"` instead. Time after
the last batch does not count, since TensorFlow's `fit` waits up to five seconds for the
threads of its data set.
"""

import functools
import time
from pathlib import Path

from .peer import serve
from .profiler import operation_seconds

# hidden_dim and number of heads; all have depth 12 and mlp_ratio 4
SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}
CLASSES = 1000


def keras_cbvit(broadcast, remat=False, flash=True, **setup):
    """Runs this package's model, on normalized images like the others."""
    import keras

    import keras_cbvit

    if not flash:
        keras.config.disable_flash_attention()
        if keras.backend.backend() == "torch":
            import torch

            torch.backends.cuda.enable_flash_sdp(False)
            torch.backends.cuda.enable_cudnn_sdp(False)

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
    """Runs KerasHub's `ViT`, or `DeiT`, which has a distillation token."""
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
    """Runs kimm's ViT."""

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
    """Runs timm's ViT, eagerly or with torch.compile."""
    import torch

    from .input_peers import import_torchvision

    import_torchvision()
    import timm

    name = {"Ti": "tiny", "S": "small", "B": "base"}[size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    number = 1 if device == "cuda" else 1 + steps
    arrays = _data(image_size, batch_size * number, channels_first=True)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    if device == "cuda":
        batches = [tensors] * (1 + steps)
    else:
        data = torch.utils.data.TensorDataset(*tensors)
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
            for batch, (images, _) in enumerate(batches):
                outputs.append(run(images).float())
                if batch in (0, steps):
                    outputs[-1].cpu()  # waits for the result
                clock.batch_ends()
        torch.cat(outputs).cpu().numpy()

    def training(clock):
        model.train()
        total = 0.0
        for batch, (images, labels) in enumerate(batches):
            with mixed:
                loss = torch.nn.functional.cross_entropy(run(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
            if batch in (0, steps):
                float(total)  # waits for the result
            clock.batch_ends()

    work = {"inference": inference, "training": training}
    return _responder(work, before, "torch"), ("timm", "torch")


def matmul(size, image_size, batch_size, precision, steps):
    """Runs products of large matrices, a ceiling for the speed of models.

    The answer contains the operations per second, `"flops"`.
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
        float(product[0, 0])  # waits for the result
        return {"flops": 4 * 2 * side**3 / (time.perf_counter() - start)}

    return respond, ("keras", backend)


class _Clock:
    """Measures the time of the first batch, and of all others together."""

    def __init__(self):
        self.first = None
        self.start = time.perf_counter()

    def batch_ends(self):
        now = time.perf_counter()
        if self.first is None:
            self.first, self.start = now - self.start, now
        self.seconds = now - self.start


def _keras(build, packages, size, image_size, batch_size, precision, steps):
    """Returns a Keras model's request handler, and the names of its packages."""
    import keras

    backend = keras.backend.backend()
    keras.config.set_dtype_policy(precision)
    is_gpu = _has_gpu(backend)
    number = 1 if is_gpu else 1 + steps  # the first batch is timed separately
    images, labels = _data(image_size, batch_size * number)
    if is_gpu:
        images, labels = (keras.ops.convert_to_tensor(x) for x in (images, labels))

    def feed(**arrays):
        """Returns the data as arguments of `predict` and `fit`."""
        if is_gpu:
            return {"x": (tuple(arrays.values()) for _ in range(1 + steps))}
        return {**arrays, "batch_size": batch_size}

    before = _memory(backend)
    model = build(size, image_size)

    class BatchEnds(keras.callbacks.Callback):
        def __init__(self, clock):
            super().__init__()
            self.clock = clock

        def on_predict_batch_end(self, batch, logs=None):
            self._batch_ends(batch, logs["outputs"])

        def on_train_batch_end(self, batch, logs=None):
            self._batch_ends(batch, logs["loss"])

        def _batch_ends(self, batch, result):
            if batch in (0, steps):  # waits for the result
                keras.tree.map_structure(keras.ops.convert_to_numpy, result)
            self.clock.batch_ends()

    def inference(clock):
        model.predict(**feed(x=images), verbose=0, callbacks=[BatchEnds(clock)])

    def training(clock):
        if not model.compiled:  # only after inference, which is done uncompiled
            model.compile(
                optimizer=keras.optimizers.AdamW(1e-4),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        data = feed(x=images, y=labels)
        model.fit(**data, shuffle=False, verbose=0, callbacks=[BatchEnds(clock)])

    work = {"inference": inference, "training": training}
    return _responder(work, before, backend), (*packages, backend)


def _data(image_size, number, channels_first=False):
    """Returns standard normal noise as float32 images, and random labels."""
    import numpy as np

    random = np.random.default_rng(0)
    images = random.standard_normal((number, image_size, image_size, 3), "float32")
    if channels_first:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images, random.integers(CLASSES, size=number)


def _responder(work, before, backend):
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
    """Returns the peak memory so far in bytes, of the GPU or else of the process."""
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
    # `getrusage` would start from the peak of the parent process.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status does not report the peak memory (VmHWM).")


if __name__ == "__main__":
    peers = keras_cbvit, keras_hub, kimm, timm, matmul
    serve({function.__name__: function for function in peers})
