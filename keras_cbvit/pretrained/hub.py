"""Downloads weights from the Hugging Face Hub into its cache.

The environment variables `HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT` and `HF_TOKEN`
apply.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from keras_cbvit.arguments import format_value
from keras_cbvit.pretrained import cache
from keras_cbvit.pretrained.formats import state_dicts

PREFIX = "hf://"
_HANDLE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
# A repository as a URL, or as in timm or transformers.
_REPOSITORY = re.compile(
    r"(?:https?:/+huggingface\.co/|hf-hub:|hf://)?"
    r"([a-z0-9][\w.-]*/[\w.-]+)(?:@.*|/(?:blob|resolve|tree)/.*)?/?",
    re.ASCII | re.IGNORECASE,
)
# The weights of a KerasHub preset, and its other files.
_KERAS_HUB_WEIGHTS = "model.weights.h5"
_KERAS_HUB_FILES = (
    "metadata.json",
    "task.json",
    "task.weights.h5",
    "preprocessor.json",
    "image_converter.json",
)


def fetch(handle: str, sha256: str | None = None) -> Path:
    """Downloads a repository's configuration and one weights file.

    Files in the Hub's cache are not downloaded again. The Hub shows name, size and
    progress.

    Args:
        handle: `"hf://owner/name"`, or `"hf://owner/name@revision"` for a branch, a
            tag or a commit.
        sha256: expected SHA-256 of the weights file, hexadecimal.

    Returns:
        The local folder of the repository.

    Raises:
        ValueError: if the handle is invalid, or the repository has no weights.
        ImportError: if the package huggingface_hub is not installed.
        OSError: if the repository does not exist or cannot be downloaded, or the
            SHA-256 differs.
    """
    found = _HANDLE.fullmatch(handle)
    if found is None:
        raise ValueError(
            f"weights={format_value(handle, 200)} must be hf://owner/name or "
            "hf://owner/name@revision."
        )
    repository = _Repository(handle, *found.groups())
    file = repository.file(state_dicts.CONFIG)
    config = (file and state_dicts.read_json(file)) or {}
    if _is_keras_hub(config):
        names, others = [_KERAS_HUB_WEIGHTS], _KERAS_HUB_FILES
    else:
        names = state_dicts.FILES
        others = [state_dicts.PREPROCESSOR] if "model_type" in config else []
    weights = next(filter(None, map(repository.file, names)), None)
    if weights is None:
        raise ValueError(
            f"{handle} has no weights in a supported format; it has none of the files "
            f"{', '.join(names)}."
        )
    if weights.name.endswith(state_dicts.INDEX):
        others = [*others, *state_dicts.list_parts(weights)]
    for name in others:
        repository.file(name)
    if sha256 is not None and (own := cache.sha256(weights)) != sha256:
        raise OSError(
            f"{weights.name} of {handle} has the SHA-256 {own}, not {sha256}, so it is "
            f"damaged or was replaced. Remove {weights.resolve()} to download it again."
        )
    return weights.parent


def suggest_handle(text: str) -> str | None:
    """Returns the handle of a repository given in another form, or `None`.

    Other forms are `owner/name`, `hf-hub:owner/name`, and the URL of its page.
    """
    found = _REPOSITORY.fullmatch(text)
    return found and PREFIX + found[1]


def _is_keras_hub(config):
    return str(config.get("registered_name")).startswith("keras_hub>")


class _Repository:
    """A repository at one commit, the one of the first file to be downloaded."""

    def __init__(self, handle: str, name: str, revision: str | None) -> None:
        self.handle, self.name, self.revision = handle, name, revision
        self._is_reachable = False

    def file(self, name: str) -> Path | None:
        """Downloads a file and returns its local path; `None` if it does not exist.

        Raises:
            ImportError: if the package huggingface_hub is not installed.
            OSError: if the file cannot be downloaded.
        """
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError as error:
            raise ImportError(
                f"weights='{self.handle}' requires the package huggingface_hub; run "
                "pip install keras_cbvit[hub]."
            ) from error
        where: dict[str, Any] = {"revision": self.revision}
        known = huggingface_hub.try_to_load_from_cache(self.name, name, **where)
        if known is huggingface_hub._CACHED_NO_EXIST and self._is_pinned:
            return None
        # The current value; huggingface_hub reads it on import.
        where["endpoint"] = os.environ.get("HF_ENDPOINT") or None
        try:
            if known is None and not self._is_reachable:
                self._check_connection(
                    huggingface_hub.hf_hub_url(self.name, name, **where)
                )
            path = Path(huggingface_hub.hf_hub_download(self.name, name, **where))
        except Exception as error:  # the Hub and HTTP raise many types
            is_local = isinstance(error, errors.LocalEntryNotFoundError)
            if isinstance(error, errors.EntryNotFoundError) and not is_local:
                return None
            raise OSError(f"{self.handle}: {self._reason(name, error)}.") from error
        self.revision = path.parent.name
        return path

    def _check_connection(self, url):
        """Fails at once if offline; `hf_hub_download` retries for half a minute."""
        import huggingface_hub
        from huggingface_hub import errors

        with contextlib.suppress(errors.EntryNotFoundError):
            huggingface_hub.get_hf_file_metadata(url)
        self._is_reachable = True

    def _reason(self, name, error):
        """Explains why a file cannot be downloaded."""
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return (
                "it is gated; accept its terms on its page and set HF_TOKEN to your "
                "token"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                "the repository does not exist or is private; for a private one, set "
                "HF_TOKEN"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"the repository has no revision {self.revision}"
        lines = str(error.__cause__ or error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        return (
            f"{name} is not in the Hub's local cache and cannot be downloaded "
            f"({reason:.200})"
        )

    @property
    def _is_pinned(self):
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None
