"""An SFTP server and a web server on this machine, each with a folder."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

#: who may log in over SSH
USER, PASSWORD = "someone", "secret"

_SFTP = """
import asyncio, asyncssh, sys

class Access(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True
    def validate_password(self, username, password):
        return (username, password) == (sys.argv[3], sys.argv[4])

async def serve():
    listening = await asyncssh.listen(
        "127.0.0.1", int(sys.argv[2]), server_factory=Access,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=sys.argv[1]),
    )
    print(listening.get_port(), flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


class SftpServer:
    """A process that talks SFTP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0  # one that nobody listens at
        self.start()

    @property
    def url(self) -> str:
        """Where its folder is."""
        return f"sftp://{USER}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, also once more: at the same port."""
        self._process, self.port = listening(_SFTP, self.folder, self.port, USER, PASSWORD)

    def stop(self) -> None:
        """End the process."""
        stop(self._process)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder as Python's own server does, without ranges; yield its URL."""
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def listening(script: str, *arguments: object) -> tuple[subprocess.Popen[str], int]:
    """Start a server that prints its port when it listens there; return its process and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said, "the server ended"
    return process, int(said)


def stop(process: subprocess.Popen[str]) -> None:
    """End the process of a server."""
    process.kill()
    process.communicate()


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """Hold a port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]
