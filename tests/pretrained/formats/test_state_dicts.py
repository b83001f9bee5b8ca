"""State dicts in files, read without PyTorch and without running anything."""

import argparse
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from safetensors.numpy import save

from keras_cbvit.pretrained.formats import state_dicts

torch = pytest.importorskip("torch")  # writes the files
from safetensors.torch import save_file  # noqa: E402  needs torch

pytestmark = pytest.mark.any_backend

TENSORS = {
    "float32": torch.arange(6.0).reshape(2, 3),
    "float64": torch.tensor([0.1], dtype=torch.float64),
    "float16": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bfloat16": torch.tensor([1.5, -3e38], dtype=torch.bfloat16),
    "int64": torch.tensor([[1], [2]]),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.0),
    "empty": torch.ones(0, 3),
}


def assert_are_tensors(arrays):
    """That arrays have the values of `TENSORS`, and narrow floats are float32."""
    assert arrays.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        is_narrow = tensor.dtype in (torch.float16, torch.bfloat16)
        expected = (tensor.float() if is_narrow else tensor).numpy()
        assert arrays[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name)


# What is read.


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_are_tensors(state_dicts.read(tmp_path / "model.safetensors")[0])


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "pytorch_model.bin"])
def test_files_of_pytorch_need_no_pytorch(name, tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / name)
    with monkeypatch.context() as elsewhere:
        elsewhere.setitem(sys.modules, "torch", None)
        arrays, _ = state_dicts.read(tmp_path / name)
    assert_are_tensors(arrays)


def test_a_file_of_pytorch_from_before_1_6_needs_it(tmp_path, monkeypatch):
    path = tmp_path / "old.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    assert_are_tensors(state_dicts.read(path)[0])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"PyTorch before 1\.6.*pip install torch"):
        state_dicts.read(path)


def test_views_and_parameters(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "transposed": base.T,
        "part": base[1:3, ::2],
        "again": base,
        "parameter": torch.nn.Parameter(base[0]),
        "repeated": torch.ones(1).expand(1),
    }
    torch.save(views, tmp_path / "views.pth")
    arrays, _ = state_dicts.read(tmp_path / "views.pth")
    for name, tensor in views.items():
        np.testing.assert_array_equal(arrays[name], tensor.detach().numpy())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "epoch": 3, "lr": 0.1, "scaler": {}},
        lambda state: {"state_dict": state, "arch": "vit", "best": (1.0, None)},
        lambda state: {"state_dict_ema": state, "state_dict": {"a": torch.zeros(9)}},
        lambda state: {"model_ema": state, "model": {"a": torch.zeros(9)}},
        lambda state: {"student": {"a": torch.zeros(9)}, "teacher": state},
        lambda state: {f"module.{name}": state[name] for name in state},
        lambda state: {f"_orig_mod.module.{name}": state[name] for name in state},
        lambda state: {
            "teacher": {
                **{f"module.backbone.{name}": state[name] for name in state},
                "module.head.mlp.0.weight": torch.zeros(9),
            }
        },
    ],
    ids=["DeiT", "timm", "timm EMA", "DeiT EMA", "DINO", "DDP", "compiled", "both"],
)
def test_wrappers_and_prefixes_are_taken_off(wrap, tmp_path):
    torch.save(wrap(OrderedDict(TENSORS)), tmp_path / "checkpoint.pth")
    assert_are_tensors(state_dicts.read(tmp_path / "checkpoint.pth")[0])


SHARDS = {"model-1.safetensors": ["float32", "bool"], "model-2.safetensors": ["int64"]}


def write_shards(folder):
    for file, names in SHARDS.items():
        save_file({name: TENSORS[name] for name in names}, folder / file)
    listed = {name: file for file, names in SHARDS.items() for name in names}
    index = json.dumps({"metadata": {}, "weight_map": listed})
    (folder / "model.safetensors.index.json").write_text(index)


def test_a_folder_in_the_layout_of_hugging_face(tmp_path):
    write_shards(tmp_path)
    arrays, config = state_dicts.read(tmp_path)
    assert arrays.keys() == {"float32", "bool", "int64"}
    assert config is None
    (tmp_path / "config.json").write_text('{"model_type": "vit", "patch_size": 16}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    (tmp_path / "model.safetensors").write_bytes(save({"one": np.ones(1)}))
    arrays, config = state_dicts.read(tmp_path)
    assert arrays.keys() == {"one"}
    assert config == {
        "model_type": "vit",
        "patch_size": 16,
        "preprocessor": {"image_mean": [0.5]},
    }
    assert state_dicts.read(tmp_path / "model.safetensors")[1] == config


def test_the_configuration_of_another_program_is_none(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save({"one": np.ones(1)}))
    (tmp_path / "config.json").write_text('{"experiment": {}}')
    assert state_dicts.read(tmp_path)[1] is None


# What is wrong.


def test_a_run_folder_is_answered_with_its_file(tmp_path):
    (tmp_path / "model.keras").touch()
    with pytest.raises(ValueError, match=r"Pass the file '.*model\.keras' instead\.$"):
        state_dicts.read(tmp_path)


class Code:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return os.mkdir, (os.environ["MADE_BY_CODE"],)


@pytest.mark.parametrize("is_archive", [True, False])
def test_code_in_a_file_is_not_run(is_archive, tmp_path, monkeypatch):
    monkeypatch.setenv("MADE_BY_CODE", str(tmp_path / "made"))
    path = tmp_path / "bad.pth"
    checkpoint = {"model": TENSORS, "more": Code()}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_archive)
    with pytest.raises(ValueError, match=r"would call \w+\.mkdir, so it was not read"):
        state_dicts.read(path)
    assert not (tmp_path / "made").exists()
    path.write_bytes(pickle.dumps({"model": Code()}))
    with pytest.raises(ValueError, match=r"bad\.pth"):
        state_dicts.read(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_damaged(suffix, share, tmp_path):
    path = tmp_path / f"cut{suffix}"
    weights = {"a": torch.arange(3000.0)}
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"cut{suffix} is damaged or not a weights"):
        state_dicts.read(path)


def test_a_flipped_bit_in_a_file_of_pytorch_is_seen(tmp_path):
    torch.save({"a": torch.arange(3000.0)}, tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is damaged .*CRC"):
        state_dicts.read(tmp_path / "a.pth")


def rewrite(path, pickled):
    """Replaces the pickle in a file of PyTorch."""
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            is_pickle = name.endswith("/data.pkl")
            archive.writestr(name, pickled(content) if is_pickle else content)


@pytest.mark.parametrize(
    "shape", [b"K\x07K\x01\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"]
)
def test_a_tensor_of_more_numbers_than_the_file_has_is_damaged(shape, tmp_path):
    path = tmp_path / "large.pth"
    torch.save({"a": torch.zeros(2, 3)}, path)
    rewrite(path, lambda content: content.replace(b"K\x02K\x03\x86", shape))
    with pytest.raises(ValueError, match="a tensor is larger than its storage"):
        state_dicts.read(path)


def test_a_file_that_expands_is_damaged(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    with pytest.raises(ValueError, match="its parts are larger than the file"):
        state_dicts.read(path)


def test_a_header_of_safetensors_that_lies_is_damaged(tmp_path):
    content = save({"a": np.zeros(3, "float32")})
    (tmp_path / "a.safetensors").write_bytes(content.replace(b"[3]", b"[9]"))
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged"):
        state_dicts.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", 3])
def test_an_index_leads_nowhere_else(name, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save({"one": np.ones(1)}))
    folder = tmp_path / "folder"
    folder.mkdir()
    index = json.dumps({"weight_map": {"one": name}})
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match="which is not a file name"):
        state_dicts.read(folder)


def test_a_missing_part_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists model-2\.safetensors, whi"):
        state_dicts.read(tmp_path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2)])
def test_what_has_no_weights_by_name_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="state dict"):
        state_dicts.read(tmp_path / "a.pth")


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none of the files model\.safetensors, "):
        state_dicts.read(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
    weights = {"a": torch.zeros(2).to(torch.float8_e4m3fn)}
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="dtype F8_E4M3, which is not supported"):
        state_dicts.read(tmp_path / "a.safetensors")


def test_options_and_numbers_beside_the_weights_are_left_out(tmp_path):
    checkpoint = {
        "best_accuracy": torch.tensor(0.5),
        "state_dict": OrderedDict(TENSORS),
        "args": argparse.Namespace(lr=1e-3, layers=[1, 2]),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_are_tensors(state_dicts.read(tmp_path / "checkpoint.pth")[0])
