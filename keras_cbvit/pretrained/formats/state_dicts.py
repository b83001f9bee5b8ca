"""Reads state dicts from PyTorch and safetensors files.

Code in a file is never run, and its sizes are checked before allocation.
"""

import collections
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cbvit.hdf5 import damage_error

SAFETENSORS, PICKLES = (".safetensors",), (".pth", ".pt", ".bin")
SUFFIXES = (*SAFETENSORS, *PICKLES)
INDEX = ".index.json"
"""Suffix of a file that lists the parts of a state dict."""
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
"""Weights files in Hugging Face's layout; the first that exists is used."""
LARGEST_JSON = 16 << 20  # bytes; indices of the largest models have less than a MB
# Keys of the state dict in a checkpoint, averaged weights first, as in timm.
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "teacher",  # DINO evaluates the teacher
)
# Prefixes from parallel training, compilation and DINO.
_PREFIXES = ("module.", "_orig_mod.", "backbone.")

# By safetensors' names. NumPy has no bfloat16, the upper half of a float32.
_BFLOAT16 = "BF16"
_DTYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    _BFLOAT16: "u2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


class _ForeignObjectError(Exception):
    """A pickle requires an object that is not part of a state dict."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Reads a state dict and the configuration beside it.

    Removes wrappers such as `{"model": ...}` and prefixes such as `module.`, and
    converts float16 and bfloat16 to float32.

    Args:
        path: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, of an index of
            such files, or of a folder in Hugging Face's layout.

    Returns:
        The arrays by name, and the content of a `config.json` of timm or transformers
        in the same folder, with that of `preprocessor_config.json` under
        `"preprocessor"`, or `None`.

    Raises:
        ValueError: if the file is damaged, would run code, or has no state dict.
        ImportError: if a package that reads the file is not installed.
        OSError: if the file cannot be read.
    """
    if path.is_dir():
        path = _weights_in(path)
    parts = [path]
    if path.name.endswith(INDEX):
        parts = [path.with_name(name) for name in list_parts(path)]
    found = {}
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"{path} lists {part.name}, which does not exist.")
        found |= _read_safetensors(part) if _is_safetensors(part) else _unpickle(part)
    arrays = unwrap(found)
    if not arrays:
        raise ValueError(f"{path} contains no named weights, so no state dict.")
    return arrays, read_config(path.parent)


def unwrap(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of the state dict in a checkpoint, without prefixes."""
    while inner := next(filter(_is_wrapped, map(found.get, _WRAPPERS)), None):
        found = inner
    arrays = {
        str(name): value
        for name, value in found.items()
        if isinstance(value, np.ndarray)
    }
    while prefix := next((p for p in _PREFIXES if any(_begins(arrays, p))), None):
        arrays = {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
    return arrays


def read_config(folder: Path) -> dict[str, Any] | None:
    """Reads the configuration and preprocessor of a folder in Hugging Face's layout.

    Returns `None` if the folder has none, or one from another program.

    Raises:
        ValueError: if a file is damaged.
    """
    config = read_json(folder / CONFIG)
    if config is None or not config.keys() & {"architecture", "model_type"}:
        return None
    preprocessor = read_json(folder / PREPROCESSOR)
    return config if preprocessor is None else {**config, "preprocessor": preprocessor}


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads the object in a JSON file; `None` if the file does not exist.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} is larger than {LARGEST_JSON:,} bytes.")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damage_error(path, error) from error
    if not isinstance(found, dict):
        raise damage_error(path, "it is not a JSON object")
    return found


def list_parts(index: Path) -> list[str]:
    """Returns the names of the weights files that an index lists.

    Raises:
        ValueError: if the index is damaged.
    """
    listed = (read_json(index) or {}).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    for name in names:
        # Only files in the same folder.
        if not isinstance(name, str) or Path(name).name != name:
            raise damage_error(
                index, f"it lists {name!r:.80}, which is not a file name"
            )
    if not names:
        raise damage_error(index, "it lists no files")
    return list(dict.fromkeys(names))


def _is_wrapped(value):
    return isinstance(value, Mapping) and len(value) > 0


def _begins(arrays, prefix):
    return (name.startswith(prefix) for name in arrays)


def _is_safetensors(path):
    return path.name.endswith(SAFETENSORS)


def _weights_in(folder):
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    own = sorted(folder.glob("*.keras"))  # of a run, for instance
    advice = f" Pass the file {str(own[0])!r} instead." if own else ""
    raise ValueError(
        f"{folder} has no weights in Hugging Face's layout; it has none of the files "
        f"{', '.join(FILES)}.{advice}"
    )


def _read_safetensors(path):
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            f"{path} requires the package safetensors; run pip install safetensors."
        ) from error
    try:
        parts = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise damage_error(path, error) from error
    arrays = {}
    for name, part in parts:
        if part["dtype"] not in _DTYPES:
            raise ValueError(
                f"{path}: {name:.80} has the dtype {part['dtype']}, which is not "
                "supported; only unquantized weights are."
            )
        arrays[name] = _decode(part["data"], part["dtype"]).reshape(part["shape"])
    return arrays


def _decode(data, dtype, order="<"):
    """Decodes bytes to an array."""
    values = np.frombuffer(data, f"{order}{_DTYPES[dtype]}")
    if dtype == _BFLOAT16:
        return (values.astype("uint32") << 16).view("float32")
    return values.astype("float32") if dtype == "F16" else values


def _unpickle(path):
    """Loads a PyTorch file with arrays in place of tensors."""
    with open(path, "rb") as file:
        is_archive = file.read(2) == b"PK"
    try:
        found = _read_archive(path) if is_archive else _read_legacy(path)
    except _ForeignObjectError as error:
        raise ValueError(
            f"{path} contains more than weights: unpickling it would call "
            f"{error!s:.200}, so it was not read. If you trust it, load it with torch "
            "and save only its state dict."
        ) from error
    except (MemoryError, ImportError, PermissionError):
        raise
    except Exception as error:  # zipfile, pickle and torch raise many types
        raise damage_error(path, error) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} contains a {type(found).__name__}, not a state dict.")
    return found


def _read_archive(path):
    """Reads a file of PyTorch 1.6 or later, a zip archive of a pickle and arrays."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        (name,) = (p.filename for p in parts if p.filename.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        with archive.open(name) as file:
            return _Unpickler(file, archive, root).load()


class _Unpickler(pickle.Unpickler):
    """Unpickles only tensors, as arrays, and the containers of a state dict.

    Needs no PyTorch, and verifies the checksum of each part.
    """

    def __init__(self, file, archive, root):
        super().__init__(file)
        self._archive, self._root = archive, root
        names = archive.namelist()
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
        self._order = ">" if big else "<"

    def find_class(self, module, name):
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _ForeignObjectError(f"{module}.{name}")

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid
        data = self._archive.read(f"{self._root}data/{key}")
        return _decode(data, dtype, self._order)


def _tensor(storage, offset, shape, strides, *_):
    """Returns a strided view of a storage as an array."""
    if min(shape, default=1) < 0 or min(strides, default=0) < 0 or offset < 0:
        raise ValueError("a tensor has a negative size")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
        raise ValueError("a tensor is larger than its storage")
    strides = [stride * storage.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)
    return np.ascontiguousarray(view).reshape(shape)


def _parameter(tensor, *_):
    return tensor


class _Ignored:
    """Stands in for training options, which are ignored."""

    def __setstate__(self, state):
        pass


_GLOBALS = {
    ("argparse", "Namespace"): _Ignored,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _read_legacy(path):
    """Reads a file from before PyTorch 1.6, with PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is in the format of PyTorch before 1.6, or not a weights file; "
            "reading it requires torch; run pip install torch."
        ) from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, separator, rest = str(error).partition("GLOBAL ")
        if separator:
            raise _ForeignObjectError(rest.split()[0].rstrip(".")) from error
        # PyTorch's own message suggests to run the code in the file.
        raise ValueError("PyTorch cannot read it") from error
    return with_arrays(found)


def with_arrays(found: Any) -> Any:
    """Converts the tensors in a checkpoint to arrays."""
    if isinstance(found, Mapping):
        return {key: with_arrays(value) for key, value in found.items()}
    if hasattr(found, "detach"):  # NumPy has no bfloat16
        found = found.detach().cpu()
        is_narrow = found.is_floating_point() and found.element_size() < 4
        return np.asarray(found.float() if is_narrow else found)
    return found
