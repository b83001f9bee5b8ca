"""Logs of a training run: log.jsonl, log.csv, curves.png, and experiment trackers."""

import csv
import io
import json
import os
import secrets
import socket
import struct
import time

from keras_cbvit.files import write

from ..figures import new_figure, save
from ..files import append, check_form, read_json


def read_log(file):
    """Returns the epochs of a `log.jsonl` as dicts of numbers; `[]` without a file.

    Raises:
        ValueError: if the file is damaged.
    """
    if not file.exists():
        return []
    try:
        if not file.is_file():  # reading a named pipe would wait for a writer
            raise ValueError("it is not a regular file")
        epochs = [json.loads(line) for line in file.read_bytes().decode().splitlines()]
        for entry in epochs:
            check_form(entry, {"epoch": int}, "an epoch")
            check_form(list(entry.values()), [(int, float)], "an epoch")
            if entry.keys() != epochs[0].keys():
                raise ValueError(f"epoch {entry['epoch']} has different metrics")
        numbers = [entry["epoch"] for entry in epochs]
        if numbers != sorted(set(numbers)):
            raise ValueError("its epochs are not in order")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error!s:.200}); remove it to continue without its "
            "epochs."
        ) from error
    return epochs


def write_log(epochs, file):
    """Writes a `log.jsonl`."""
    lines = [json.dumps(entry) + "\n" for entry in epochs]
    write(file, "".join(lines).encode())


def write_table(epochs, file):
    """Writes a `log.csv`."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, epochs[0])
    table.writeheader()
    table.writerows(epochs)
    write(file, text.getvalue().encode())


class Scalars:
    """Writes a TensorBoard event file for each start of a run.

    The writer thread of tensorboardX is not used: if the disk is full, it dies silently
    and training hangs.

    Args:
        folder: TensorBoard log directory.
    """

    def __init__(self, folder):
        self.folder = folder

    def begin(self, epochs):
        """Creates the event file and writes the epochs so far."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.folder.mkdir(parents=True, exist_ok=True)
        start = f"{time.time():.0f}.{socket.gethostname()}"
        self.file = self.folder / f"events.out.tfevents.{start}"
        # Has TensorBoard discard the files of earlier starts, which may lack an epoch
        # or have one too many.
        start = Event(session_log=SessionLog(status=SessionLog.START))
        self._write(Event(file_version="brain.Event:2"), start)
        for entry in epochs:
            self.add(entry)

    def add(self, entry):
        """Writes the numbers of an epoch."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in entry.items()
            if name != "epoch"
        ]
        self._write(Event(step=entry["epoch"], summary=Summary(value=values)))

    def _write(self, *events):
        append(self.file, b"".join(map(_record, events)))


class WeightsAndBiases:
    """Logs the epochs of a run to Weights & Biases, within a context.

    A resumed run continues the same W&B run. The project is `keras_cbvit` unless the
    environment variable WANDB_PROJECT is set. WANDB_MODE=offline requires no account.

    Args:
        folder: run folder; the file `wandb_id` in it holds the id of the W&B run.
    """

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        from wandb import Error, init

        file = self.folder / "wandb_id"
        if not file.exists():
            write(file, secrets.token_hex(8).encode())
        try:
            self.run = init(
                project=os.environ.get("WANDB_PROJECT", "keras_cbvit"),
                name=self.folder.name,
                dir=self.folder,
                config=read_json(self.folder / "config.json"),
                id=file.read_text(),
                resume="allow",
            )
        except Error as error:  # no account, no connection
            raise ValueError(f"Weights & Biases: {error}") from error
        return self

    def __exit__(self, kind, error, trace):
        self.run.finish(exit_code=0 if error is None else 1)

    def begin(self, epochs):
        """Does nothing: the W&B run already has the epochs so far."""

    def add(self, entry):
        """Logs the numbers of an epoch."""
        numbers = {name: value for name, value in entry.items() if name != "epoch"}
        self.run.log(numbers, step=entry["epoch"])


def require_wandb():
    """Raises an ImportError if wandb is not installed."""
    try:
        from wandb import init  # noqa: F401 - `import wandb` also finds a wandb folder
    except ImportError as error:
        raise ImportError(
            "--wandb requires the package wandb, which is not installed: "
            'pip install "keras_cbvit[wandb]"'
        ) from error


def _record(event):
    """Returns an event as a TFRecord: length and content, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    event.wall_time = time.time()
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join(
        part + struct.pack("<I", masked_crc32c(part)) for part in (length, content)
    )


_TITLES = {
    "loss": "loss (training: of augmented images)",
    "accuracy": "top-1 accuracy",
    "mean_iou": "mean IoU",
}


def draw_curves(epochs, path):
    """Draws the loss and the test metrics over the epochs of a log."""
    names = curves_of(epochs)
    figure = new_figure(4.5 * len(names), 3.6)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        draw_curve(axis, epochs, name)
    save(figure, path)


def curves_of(epochs):
    """Returns the names of the curves: the loss and the test metrics."""
    measured = [name[4:] for name in epochs[0] if name.startswith("val_")]
    measured = [name for name in measured if not name.startswith("ema_")]
    return list(dict.fromkeys(["loss", *measured]))


def draw_curve(axis, epochs, name):
    """Draws the training and test values of `name`, one of `curves_of(epochs)`."""
    numbers = [entry["epoch"] + 1 for entry in epochs]
    marker = "o" if len(epochs) < 3 else None
    for key, style, kind in (
        (name, "--", "training"),
        (f"val_{name}", "-", "test"),
    ):
        if key in epochs[0]:
            values = [entry[key] for entry in epochs]
            axis.plot(numbers, values, style, marker=marker, label=kind)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(_TITLES.get(name, name.replace("_", " ")))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
