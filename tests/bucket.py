"""An S3 server on this machine, and a wire to it that counts requests and can be cut."""

import contextlib
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator

from .servers import listening, stop

KEYS = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}
BUCKET = "activations"

_SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""
_REQUEST = re.compile(rb"(?:^|(?<=\n)|(?<=[>}]))(GET|PUT|HEAD|DELETE|POST) (\S+) HTTP/1\.1\r\n")


class Server:
    """A process that talks S3, with a bucket."""

    def __init__(self) -> None:
        self._process, self.port = listening(_SERVER)
        self.ask("PUT", f"/{BUCKET}")

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send one request past all proxies and credentials; return the answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=body,
            headers={"Content-Type": "text/plain"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request) as answer:
            found: bytes = answer.read()
            return found

    def stop(self) -> None:
        """End the process."""
        stop(self._process)


class Wire:
    """A port that passes everything on to a server, until it is cut.

    Attributes
    ----------
    requests : list of str
        Method and path of every request so far.
    cut_after : float
        Bytes that are still passed on to the server.
    """

    def __init__(self, server: Server) -> None:
        self.requests: list[str] = []
        self.cut_after = float("inf")
        self._server = server
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What tells clients to talk through the wire."""
        port = self._socket.getsockname()[1]
        direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return {**KEYS, **direct, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    def mend(self) -> None:
        """Pass everything on again."""
        self.cut_after = float("inf")

    def close(self) -> None:
        """Cut the wire for good."""
        self._socket.close()
        self._drop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.cut_after <= 0:
                return
            with socket.create_connection(("127.0.0.1", self._server.port)) as server:
                self._open |= {client, server}
                back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
                back.start()
                self._pass(client, server, up=True)
                back.join()
                self._open -= {client, server}

    def _pass(self, source: socket.socket, target: socket.socket, up: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if up:
                    self.requests += [b" ".join(r).decode() for r in _REQUEST.findall(data)]
                    if len(data) > self.cut_after:
                        target.sendall(data[: max(0, int(self.cut_after))])
                        self.cut_after = 0
                        self._drop()
                        return
                    self.cut_after -= len(data)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire_to(server: Server) -> Iterator[Wire]:
    """Open a wire for as long as the block lasts."""
    wire = Wire(server)
    try:
        yield wire
    finally:
        wire.close()
