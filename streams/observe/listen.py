"""Opening a port that a setting names, so that what stands in its way is said with that setting's name."""

from __future__ import annotations

import errno
import ipaddress
import socket

from streams.errors import SettingsError

BACKLOG = 1_024


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Return a listening socket.

    Args:
        port: 0 takes a free one.
        setting: Where the address comes from, without its last part: `STREAMS_GATEWAY`.

    Raises:
        SettingsError: The port is in use, may not be used, or the host is not an address of this machine.
    """
    try:
        # With its protocol named: event loops turn Nagle's delay off only for sockets that say that they are TCP.
        options = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = options[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} at {host} is in use by another process; end that, or set {setting}__PORT to another one "
                "(0 takes a free one)"
            ) from None
        raise SettingsError(
            f"{host}:{port} cannot be listened on: {error.strerror}; correct {setting}__HOST or {setting}__PORT"
        ) from None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches *host*; a name other than `localhost` is taken not to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(listener: socket.socket) -> str:
    """Return `host:port` as it goes into a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
