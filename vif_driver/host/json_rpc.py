# SPDX-License-Identifier: GPL-2.0-or-later
"""One question over JSON-RPC to a daemon of Open vSwitch's or OVN's, with a deadline.

The daemons speak version 1.0 of it over a stream (RFC 7047, section 4; unixctl is the same
protocol, ovs-appctl(8)).  The ``ovs`` package's own connection blocks without a deadline, which a
daemon that hangs would turn into a thread that hangs.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

_CHUNK = 65536

#: Bytes of an answer; a southbound database's chassis of a thousand hosts have one million.
MAX_ANSWER = 32 * 1024 * 1024


class Refused(Exception):
    """The daemon answered with an error; the text is its own."""


class Connection:
    """A connection to such a daemon.

    Args:
        stream: connected.
        deadline: when to give up, in time.monotonic()'s seconds.
    """

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline
        self._received = ""
        self._bytes = 0
        self._decoder = json.JSONDecoder()
        self._number = 0

    def call(self, method: str, parameters: Sequence[Any]) -> Any:
        """Make a call and give its result.

        Raises:
            Refused: the daemon answered with an error.
            OSError: the connection broke, or time ran out.
            ValueError: what came is no JSON-RPC.
        """
        return self.result(self.begin(method, parameters))

    def begin(self, method: str, parameters: Sequence[Any]) -> int:
        """Make a call whose result is fetched later; the daemon works meanwhile.

        Returns:
            The call, for :meth:`result`; results come in the order of the calls.

        Raises:
            OSError: see :meth:`call`.
        """
        self._number += 1
        self._send({"method": method, "params": list(parameters), "id": self._number})
        return self._number

    def result(self, call: int) -> Any:
        """Wait for the result of a call; those of calls before it are dropped.

        Raises:
            Refused, OSError, ValueError: see :meth:`call`.
        """
        while True:
            message = self._receive()
            if message.get("method") == "echo":
                self._send({"id": message.get("id"), "result": message["params"], "error": None})
            elif message.get("id") == call and "method" not in message:
                if message.get("error") is not None:
                    raise Refused(_text(message["error"]))
                return message.get("result")

    def _send(self, message: dict[str, Any]) -> None:
        self._stream.settimeout(self._left())
        self._stream.sendall(json.dumps(message).encode())

    def _receive(self) -> dict[str, Any]:
        while True:
            text = self._received.lstrip()
            if text:
                try:
                    message, end = self._decoder.raw_decode(text)
                except json.JSONDecodeError:
                    if self._bytes > MAX_ANSWER:
                        raise
                else:
                    self._received, self._bytes = text[end:], 0
                    if not isinstance(message, dict):
                        raise ValueError("not a JSON-RPC message")
                    return message
            self._received += self._more()

    def _more(self) -> str:
        parts = []
        while True:
            self._stream.settimeout(self._left())
            part = self._stream.recv(_CHUNK)
            if not part:
                raise ConnectionResetError("the other side hung up")
            parts.append(part)
            self._bytes += len(part)
            # A large answer is decoded when it may be whole, not with every part of it.
            if part.rstrip().endswith(b"}") or self._bytes > MAX_ANSWER:
                return b"".join(parts).decode("utf-8")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        return left


def ask_unix(path: str, method: str, parameters: Sequence[Any], timeout: float) -> Any:
    """Connect to a unix socket, make one call, hang up.

    Raises:
        Refused, OSError, ValueError: see :meth:`Connection.call`.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(timeout)
        stream.connect(path)
        return Connection(stream, deadline).call(method, parameters)


def _text(error: Any) -> str:
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("error", "details") if error.get(key))
    return str(error)
