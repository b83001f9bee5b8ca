"""Reading from URLs: whatever goes wrong is an OSError that names the address."""

import contextlib
import http.client
import urllib.request
from collections.abc import Iterator

TIMEOUT_SECONDS = 20  # without an answer, or a next byte
SCHEMES = ("http", "https", "file")


def read(url: str, most: int) -> bytes:
    """The content behind a URL.

    Args:
        url: the address.
        most: the largest number of bytes to take.

    Raises:
        OSError: if it cannot be read, or is larger.
    """
    content = b"".join(chunks(url, most + 1))
    if len(content) > most:
        raise OSError(f"{url} has more than {most:,} bytes.")
    return content


def chunks(url: str, most: int) -> Iterator[bytes]:
    """Yields the content behind a URL in pieces, no more than a number of bytes.

    Raises:
        OSError: if it cannot be read.
    """
    with _failures_of(url):
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            raise OSError("it must begin with http://, https:// or file://")
        response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    with response:
        while most > 0:
            with _failures_of(url):
                chunk = response.read(min(most, 1 << 20))
            if not chunk:
                return
            most -= len(chunk)
            yield chunk


@contextlib.contextmanager
def _failures_of(url):
    try:
        yield
    # urllib lets through what its lower layers raise: of HTTP, of encodings, of ports.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{url!s:.500} cannot be downloaded ({reason:.200}).") from error
