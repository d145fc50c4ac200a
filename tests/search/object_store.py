"""A real server of the S3 protocol on loopback."""

import logging
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

BUCKET = "experiments"


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """HOST:PORT of the server; it has one bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "of-the-test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-test")
        options = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
        filesystem, bucket = fs.FileSystem.from_uri(f"s3://{BUCKET}?{options}")
        filesystem.create_dir(bucket)
        yield f"{host}:{port}"
    server.stop()


def address(object_store: str, prefix: str, bucket: str = BUCKET) -> str:
    """Of a folder in the store."""
    return f"s3://{bucket}/{prefix}?endpoint_override={object_store}&scheme=http"
