"""Weights on the Hugging Face hub, in the hub's own cache.

Its environment variables work as everywhere: `HF_HOME`, `HF_HUB_OFFLINE`,
`HF_ENDPOINT`, `HF_TOKEN`.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from keras_cbvit.arguments import shown
from keras_cbvit.pretrained import cache
from keras_cbvit.pretrained.formats import state_dicts

PREFIX = "hf://"
_HANDLE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
# A repository as its page, timm or transformers call it.
_REPOSITORY = re.compile(
    r"(?:https?:/+huggingface\.co/|hf-hub:|hf://)?"
    r"([a-z0-9][\w.-]*/[\w.-]+)(?:@.*|/(?:blob|resolve|tree)/.*)?/?",
    re.ASCII | re.IGNORECASE,
)
# The weights of a KerasHub preset, and what it may have beside them.
_KERAS_HUB_WEIGHTS = "model.weights.h5"
_KERAS_HUB_FILES = (
    "metadata.json",
    "task.json",
    "task.weights.h5",
    "preprocessor.json",
    "image_converter.json",
)


def fetch(handle: str, sha256: str | None = None) -> Path:
    """The folder of a repository on this machine, with what is needed of it.

    That is its configuration and one file of weights, which are downloaded if the
    hub's cache does not have them. The hub shows the name, the size and the progress.

    Args:
        handle: `"hf://owner/name"`, or `"hf://owner/name@revision"` for a branch, a
            tag or a commit.
        sha256: SHA-256 that the file of weights must have, hexadecimal.

    Raises:
        ValueError: if it is no such handle, or the repository has no weights.
        ImportError: if the package huggingface_hub is missing.
        OSError: if there is no such repository, it cannot be downloaded, or the file
            has another SHA-256.
    """
    found = _HANDLE.fullmatch(handle)
    if found is None:
        raise ValueError(
            f"weights={shown(handle, 200)} must be hf://owner/name or "
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
            f"{handle} has no weights in a format that is read: none of the files "
            f"{', '.join(names)}."
        )
    if weights.name.endswith(state_dicts.INDEX):
        others = [*others, *state_dicts.listed_parts(weights)]
    for name in others:
        repository.file(name)
    if sha256 is not None and (own := cache.sha256(weights)) != sha256:
        raise OSError(
            f"{weights.name} of {handle} has the SHA-256 {own}, not {sha256}: it is "
            f"damaged or was replaced. Remove {weights.resolve()} to download it again."
        )
    return weights.parent


def suggest_handle(text: str) -> str | None:
    """The handle of a repository that is named in another way; `None` if none is.

    That is `owner/name`, `hf-hub:owner/name`, or the URL of its page.
    """
    found = _REPOSITORY.fullmatch(text)
    return found and PREFIX + found[1]


def _is_keras_hub(config):
    return str(config.get("registered_name")).startswith("keras_hub>")


class _Repository:
    """A repository at one commit: that of the first of its files."""

    def __init__(self, handle: str, name: str, revision: str | None) -> None:
        self.handle, self.name, self.revision = handle, name, revision
        self._is_reached = False

    def file(self, name: str) -> Path | None:
        """The path of one of its files on this machine; `None` if it has no such file.

        Raises:
            ImportError: if the package huggingface_hub is missing.
            OSError: if it cannot be downloaded.
        """
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError as error:
            raise ImportError(
                f"weights='{self.handle}' needs the package huggingface_hub: "
                "pip install keras_cbvit[hub]."
            ) from error
        where: dict[str, Any] = {"revision": self.revision}
        known = huggingface_hub.try_to_load_from_cache(self.name, name, **where)
        if known is huggingface_hub._CACHED_NO_EXIST and self._is_pinned:
            return None
        # The variable as it is now, not as it was when the hub was imported.
        where["endpoint"] = os.environ.get("HF_ENDPOINT") or None
        try:
            if known is None and not self._is_reached:
                self._reach(huggingface_hub.hf_hub_url(self.name, name, **where))
            path = Path(huggingface_hub.hf_hub_download(self.name, name, **where))
        except Exception as error:  # of many kinds, by the hub and by HTTP
            is_local = isinstance(error, errors.LocalEntryNotFoundError)
            if isinstance(error, errors.EntryNotFoundError) and not is_local:
                return None
            raise OSError(f"{self.handle}: {self._reason(name, error)}.") from error
        self.revision = path.parent.name
        return path

    def _reach(self, url):
        """Fails at once without a hub; `hf_hub_download` tries for half a minute."""
        import huggingface_hub
        from huggingface_hub import errors

        with contextlib.suppress(errors.EntryNotFoundError):
            huggingface_hub.get_hf_file_metadata(url)
        self._is_reached = True

    def _reason(self, name, error):
        """Why a file cannot be downloaded, in words."""
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return (
                "it is gated: accept its terms on its page, and set HF_TOKEN to your "
                "token"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                "the hub has no such repository, or it is private; set HF_TOKEN to a "
                "token that may read it"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"the repository has no revision {self.revision}"
        lines = str(error.__cause__ or error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        return (
            f"{name} is not in the hub's cache on this machine, and cannot be "
            f"downloaded ({reason:.200})"
        )

    @property
    def _is_pinned(self):
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None
