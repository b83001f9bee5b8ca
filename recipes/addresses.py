"""Addresses of services that other processes or machines run."""

import socket


def check_listens(address, service, advice):
    """Checks that something listens at an address; clients would try for minutes.

    Args:
        address: `HOST:PORT`, with or without a protocol before it.
        service: what should be there, for the message.
        advice: what would help, for the message.

    Raises:
        ConnectionError: if nothing listens, or the address cannot be one.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectionError(
            f"There is no {service} at {address} ({reason}); {advice}."
        ) from error
