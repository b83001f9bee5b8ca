"""Reads from URLs; every failure is an OSError that names the URL."""

import contextlib
import http.client
import urllib.request
from collections.abc import Iterator

TIMEOUT_SECONDS = 20  # for the connection and for each read
SCHEMES = ("http", "https", "file")


def read(url: str, most: int) -> bytes:
    """Reads the content of a URL.

    Args:
        url: the URL.
        most: the maximum number of bytes.

    Raises:
        OSError: if the content cannot be read or is larger.
    """
    content = b"".join(chunks(url, most + 1))
    if len(content) > most:
        raise OSError(f"{url} is larger than {most:,} bytes.")
    return content


def chunks(url: str, most: int) -> Iterator[bytes]:
    """Yields the content of a URL in chunks, at most `most` bytes in total.

    Raises:
        OSError: if the content cannot be read.
    """
    with _convert_errors(url):
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            raise OSError("it must start with http://, https:// or file://")
        response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    with response:
        while most > 0:
            with _convert_errors(url):
                chunk = response.read(min(most, 1 << 20))
            if not chunk:
                return
            most -= len(chunk)
            yield chunk


@contextlib.contextmanager
def _convert_errors(url):
    try:
        yield
    # urllib also raises errors of HTTP, encodings and ports.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{url!s:.500} cannot be downloaded ({reason:.200}).") from error
