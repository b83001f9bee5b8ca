"""Checks of the addresses of services in other processes or on other machines."""

import socket


def check_listens(address, service, advice):
    """Checks that a service listens at an address; clients would retry for minutes.

    Args:
        address: `HOST:PORT`, optionally with a protocol prefix.
        service: name of the service, for the error message.
        advice: how to fix a failure, for the error message.

    Raises:
        ConnectionError: if nothing listens there or the address is invalid.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectionError(
            f"No {service} listens at {address} ({reason}); {advice}."
        ) from error
