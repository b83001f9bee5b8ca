"""Downloads from a server on this machine in the hub's own layout."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import re
import sys

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from keras_cbvit.pretrained import hub
from tests.pretrained.hub_server import COMMIT
from tests.pretrained.hub_server import hub as serve

pytestmark = pytest.mark.any_backend

HANDLE = "hf://owner/name"
WEIGHTS = save({"a": np.arange(60_000, dtype="float32")})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CONFIG = json.dumps({"architecture": "vit_tiny_patch16_224"}).encode()
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": b"#"}


@pytest.fixture
def start(monkeypatch):
    """Starts a server of the files of a repository, which `HF_ENDPOINT` names."""
    with contextlib.ExitStack() as stack:

        def start(files=FILES):
            server = stack.enter_context(serve({"owner/name": files}))
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            return server

        yield start


@pytest.fixture
def offline(monkeypatch):
    """What `HF_HUB_OFFLINE=1` does, which the hub reads when it is imported."""

    def offline():
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return offline


def content(folder):
    """The files of a folder with their content."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def without(*names):
    return {name: FILES[name] for name in FILES if name not in names}


# What is downloaded.


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_configuration_and_weights_come_into_the_hubs_cache(revision, start, hub_cache):
    start()
    folder = hub.fetch(HANDLE + revision)
    assert folder == hub_cache / "models--owner--name" / "snapshots" / COMMIT
    assert content(folder) == without("README.md")


def test_what_is_in_the_cache_is_not_downloaded_again(start):
    server = start()
    hub.fetch(HANDLE)
    downloads = server.count("GET")
    assert downloads == 2
    hub.fetch(HANDLE)
    assert server.count("GET") == downloads
    asked = len(server.requests)
    hub.fetch(f"{HANDLE}@{COMMIT}")  # a commit does not change: nothing is asked
    assert len(server.requests) == asked


SHARDS = {
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode(),
    "model-1.safetensors": save({"a": np.zeros(3)}),
    "model-2.safetensors": save({"b": np.ones(3)}),
}
PRESET = {
    "config.json": b'{"registered_name": "keras_hub>ViTBackbone"}',
    "metadata.json": b"{}",
    "task.json": b"{}",
    "model.weights.h5": b"HDF5",
}
OF_TRANSFORMERS = {
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": b"{}",
    "model.safetensors": WEIGHTS,
}


@pytest.mark.parametrize(
    "files, unneeded",
    [
        (FILES | {"preprocessor_config.json": b"{}"}, {"preprocessor_config.json"}),
        (OF_TRANSFORMERS, {"tf_model.h5", "flax_model.msgpack", "pytorch_model.bin"}),
        ({"config.json": CONFIG, "pytorch_model.bin": b"PK"}, {"model.ckpt"}),
        ({"model.safetensors": WEIGHTS}, {"model.onnx"}),
        ({"config.json": CONFIG, **SHARDS}, {"pytorch_model.bin"}),
        (PRESET, {"assets.zip", "model.safetensors"}),
    ],
    ids=["timm", "transformers", "pickle", "no config", "shards", "keras_hub"],
)
def test_only_what_is_needed_is_downloaded(files, unneeded, start):
    start(files | dict.fromkeys([*unneeded, "README.md"], b"unneeded"))
    expected = {name: files[name] for name in files.keys() - unneeded - {"README.md"}}
    assert content(hub.fetch(HANDLE)) == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_name_and_the_size_of_a_download_are_shown(start, monkeypatch):
    start()
    monkeypatch.setattr(sys, "stderr", Terminal())
    hub.fetch(HANDLE)
    assert re.search(r"model\.safetensors: .*240k/240k", sys.stderr.getvalue())


def test_a_download_that_is_cut_is_resumed_where_it_ended(start, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4)
    server = start()
    server.cut.add("model.safetensors")
    assert content(hub.fetch(HANDLE))["model.safetensors"] == WEIGHTS
    assert server.count("GET", "model.safetensors") == 2
    assert server.sent == len(CONFIG) + len(WEIGHTS)


def _fetch_at_once(barrier, results):
    barrier.wait()
    results.put(content(hub.fetch(HANDLE))["model.safetensors"] == WEIGHTS)


def test_twelve_processes_at_once_all_get_the_file(start):
    server = start()
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(12), context.SimpleQueue()
    processes = [
        context.Process(target=_fetch_at_once, args=(barrier, results))
        for _ in range(12)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 12
    assert all(results.get() for _ in processes)
    assert server.count("GET", "model.safetensors") == 1


# Without a network.


def test_a_cached_copy_is_used_offline(start, offline):
    start()
    online = hub.fetch(HANDLE)
    offline()
    assert hub.fetch(HANDLE) == hub.fetch(f"{HANDLE}@{COMMIT}") == online


def test_a_cached_copy_is_used_without_an_answer(start):
    server = start()
    online = hub.fetch(HANDLE)
    server.shutdown()
    server.server_close()
    assert hub.fetch(HANDLE) == online


@pytest.mark.parametrize("is_offline", [False, True])
def test_without_a_copy_and_without_an_answer_it_is_an_error(
    is_offline, offline, monkeypatch
):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    if is_offline:
        offline()
    with pytest.raises(
        OSError, match="config.json is not in the Hub's local cache"
    ) as error:
        hub.fetch(HANDLE)
    assert ("offline" in str(error.value)) == is_offline
    assert "\n" not in str(error.value)


def test_a_copy_without_its_weights_is_an_error_offline(start, offline):
    start()
    (hub.fetch(HANDLE) / "model.safetensors").unlink()
    offline()
    with pytest.raises(
        OSError, match=r"model\.safetensors is not in the Hub's local cache"
    ):
        hub.fetch(HANDLE)


# What is wrong.


@pytest.mark.parametrize(
    "handle, message",
    [
        (
            "hf://owner/nowhere",
            "hf://owner/nowhere: the repository does not exist",
        ),
        (
            "hf://refused/absent",
            "hf://refused/absent: the repository does not exist",
        ),
        (
            "hf://refused/private",
            "or is private; for a private one, set HF_TOKEN",
        ),
        ("hf://refused/gated", "it is gated; accept its terms on its page"),
        ("hf://refused/busy", r"config\.json is not in the Hub's local cache .*503"),
        (f"{HANDLE}@nowhere", "the repository has no revision nowhere"),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_sentence(handle, message, start):
    start()
    with pytest.raises(OSError, match=message) as error:
        hub.fetch(handle)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "handle",
    ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a b/c", "hf://ä/b"],
)
def test_a_handle_that_is_none_is_refused_with_its_form(handle):
    with pytest.raises(ValueError, match="must be hf://owner/name or hf://owner/name@"):
        hub.fetch(handle)


def test_a_repository_without_weights_is_refused(start):
    start({"config.json": CONFIG, "model.onnx": b""})
    with pytest.raises(ValueError, match="hf://owner/name has no weights in a supp"):
        hub.fetch(HANDLE)


def test_a_wrong_hash_is_an_error_that_says_both(start):
    start()
    assert hub.fetch(HANDLE, SHA256)
    with pytest.raises(OSError, match=f"the SHA-256 {SHA256}, not {'0' * 64}"):
        hub.fetch(HANDLE, "0" * 64)


def test_a_file_that_was_damaged_in_the_cache_is_seen_by_its_hash(start):
    start()
    file = hub.fetch(HANDLE, SHA256) / "model.safetensors"
    file.resolve().write_bytes(WEIGHTS[:-1])
    with pytest.raises(OSError, match=r"Remove /.* to download it again") as error:
        hub.fetch(HANDLE, SHA256)
    assert str(file.resolve()) in str(error.value)
    file.resolve().unlink()
    assert content(hub.fetch(HANDLE, SHA256))["model.safetensors"] == WEIGHTS
