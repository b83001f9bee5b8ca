"""The models that `recipes.benchmark.model` measures, each in its process.

All are ViTs of the same size that end in 1000 logits, with no dropout and no drop path,
trained by AdamW on cross-entropy. They are used as their users do: Keras's by `predict`
and `fit`, timm's in the loop of PyTorch's own tutorials.

A request is a dict: `"do"`, `"inference"` or `"training"`, and `"steps"`, of batches.
The answer has the `"seconds"` and the `"memory"` in bytes at its peak so far, less what
was taken before the model was built.
"""

import time
from pathlib import Path

from recipes.benchmark.peer import serve

# hidden_dim and number of heads; depth 12, MLPs four times as wide
SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}
CLASSES = 1000


def keras_cbvit(broadcast, **setup):
    """This package's; the images are taken as normalised, as the others do."""

    import keras_cbvit

    def build(size, image_size):
        return getattr(keras_cbvit, f"ViTCB_{size}")(
            weights=None,
            broadcast=broadcast,
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

    from recipes.benchmark.input_peers import import_torchvision

    import_torchvision()
    import timm

    name = {"Ti": "tiny", "S": "small", "B": "base"}[size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (
        torch.from_numpy(array)
        for array in _data(image_size, batch_size, steps, channels_first=True)
    )
    before = _memory("torch")
    model = timm.create_model(
        f"vit_{name}_patch16_224", img_size=image_size, num_classes=CLASSES
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    run = torch.compile(model) if compiled else model
    mixed = torch.autocast(
        device, torch.bfloat16, enabled=precision == "mixed_bfloat16"
    )

    def batches(steps):
        for images_, labels_ in zip(
            images.split(batch_size)[:steps],
            labels.split(batch_size)[:steps],
            strict=True,
        ):
            yield images_.to(device), labels_.to(device)

    def inference(steps):
        model.eval()
        with torch.inference_mode(), mixed:
            outputs = [run(images).float().cpu() for images, _ in batches(steps)]
        torch.cat(outputs).numpy()

    def training(steps):
        model.train()
        total = 0.0
        for images, labels in batches(steps):
            with mixed:
                loss = torch.nn.functional.cross_entropy(run(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        float(total)

    work = {"inference": inference, "training": training}
    return _measured(work, before, "torch"), ("timm", "torch")


def _keras(build, packages, size, image_size, batch_size, precision, steps):
    """What answers for a Keras model, and the names of its packages."""
    import keras

    backend = keras.backend.backend()
    keras.config.set_dtype_policy(precision)
    images, labels = _data(image_size, batch_size, steps)
    before = _memory(backend)
    model = build(size, image_size)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def inference(steps):
        number = steps * batch_size
        model.predict(images[:number], batch_size=batch_size, verbose=0)

    def training(steps):
        number = steps * batch_size
        model.fit(
            images[:number],
            labels[:number],
            batch_size=batch_size,
            shuffle=False,
            verbose=0,
        )

    work = {"inference": inference, "training": training}
    return _measured(work, before, backend), (*packages, backend)


def _data(image_size, batch_size, steps, channels_first=False):
    """Noise of N(0, 1) as float32 images, and labels."""
    import numpy as np

    random = np.random.default_rng(0)
    number = batch_size * steps
    images = random.standard_normal((number, image_size, image_size, 3), "float32")
    if channels_first:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images, random.integers(CLASSES, size=number)


def _measured(work, before, backend):
    def respond(request):
        start = time.perf_counter()
        work[request["do"]](request["steps"])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "memory": _memory(backend) - before}

    return respond


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
    peers = keras_cbvit, keras_hub, kimm, timm
    serve({function.__name__: function for function in peers})
