"""An object store for fsspec: s3://BUCKET is a folder in that of `BUCKETS`.

Importing this registers it, also in worker processes, which import it with `Steps`.
"""

import os

import fsspec
from fsspec.implementations.local import LocalFileSystem

from recipes.data.batches import Batches


class Buckets(LocalFileSystem):
    protocol = "s3"
    requests = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        path = os.fspath(path)
        if path.startswith("s3://"):
            path = f"{os.environ['BUCKETS']}/{path.removeprefix('s3://')}"
        return super()._strip_protocol(path)

    def cat_file(self, path, version_id=None, start=None, end=None):  # as s3fs has it
        self.requests.append((path, start, end))
        return super().cat_file(path, start, end)


fsspec.register_implementation("s3", Buckets, clobber=True)


class StoredBatches(Batches):
    """Batches that worker processes make from the store."""
