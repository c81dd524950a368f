"""An SFTP server and a web server on this machine, each with a folder."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
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
    await asyncssh.listen(
        "127.0.0.1", int(sys.argv[2]), server_factory=Access,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=sys.argv[1]),
    )
    await asyncio.Event().wait()

asyncio.run(serve())
"""


class SftpServer:
    """A process that talks SFTP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """Where its folder is."""
        return f"sftp://{USER}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, also once more."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SFTP, str(self.folder), str(self.port), USER, PASSWORD],
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not answers(self.port):
            assert self.process.poll() is None, "the SFTP server ended"
            assert time.monotonic() < deadline, "the SFTP server does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


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


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Return whether somebody listens at a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
