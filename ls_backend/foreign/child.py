"""The process of one foreign model: a request comes in, an answer goes out, until the parent lets go.

    python -m ls_backend.foreign.child DESCRIPTOR

Whatever the model prints goes to the parent's stderr, so that it cannot be taken for an answer. Messages are JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from ls_backend.errors import BackendError
from ls_backend.foreign.host import NOT_OURS, Host, words
from ls_backend.foreign.order import Order


def serve(connection: Connection) -> None:
    """Construct the model that the first message orders, then answer until the other end is closed."""
    try:
        host = Host(Order(**json.loads(connection.recv_bytes())))
    except BackendError as error:
        return _send(connection, {"refused": type(error).__name__, "message": str(error), "hint": error.hint})
    _send(connection, {"version": host.version})
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return None
        _send(connection, _answer(host, message))


def _answer(host: Host, message: dict[str, Any]) -> dict[str, Any]:
    try:
        if message["do"] == "fit":
            host.fit(message["tasks"], message["event"])
            return {"version": host.version}
        return {"entries": host.predict(message["tasks"], message["context"]), "version": host.version}
    except NOT_OURS as error:  # its process goes on
        traceback.print_exc()
        return {"raised": words(error), "version": host.version}


def _send(connection: Connection, answer: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    serve(Connection(descriptor))
