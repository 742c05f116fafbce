"""An S3 server on this machine, and mirrors of its objects as several machines would have them."""

import logging
import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from r2v_dist.object_storage import mirror as mirrors

SECRET = "the-secret-access-key"


@contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[str]:
    """Serve S3 with one bucket, and have the environment name it; the server's address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = _one_by_one(server._server.app)
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    _ask(f"{endpoint}/moto-api/reset", "POST")  # servers of one process share their objects
    _ask(f"{endpoint}/{bucket}", "PUT")
    variables = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    with patch.dict(os.environ, variables):
        yield endpoint
    server.stop()


def _one_by_one(app: Any) -> Any:
    """A store creates an object once; this one looks and then writes, where two at a time would
    both find nothing.
    """
    lock = threading.Lock()

    def answer(environ: Any, start_response: Any) -> Any:
        with lock:
            return app(environ, start_response)

    return answer


def _ask(url: str, method: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method=method)).close()


def mirror_of(address: str, machine: Path) -> Path:
    """The run directory of an address on one machine, whose disk is a folder here."""
    root = machine / mirrors.folder_name(address)
    root.mkdir(parents=True)
    return root
