"""Files and folders at an address, on a disk and in a real S3-compatible store."""

import pickle
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from object_store import address, object_store

from search.storage import Storage, StorageError, is_address
from spaces import ConfigError

__all__ = ["object_store"]
pytestmark = pytest.mark.slow


@pytest.fixture(params=["disk", "s3", "file uri"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, object_store: str) -> Storage:
    if request.param == "s3":
        return Storage(address(object_store, tmp_path.name))
    shared = tmp_path / "shared"
    return Storage(str(shared) if request.param == "disk" else shared.as_uri())


@pytest.fixture
def ticket(tmp_path: Path) -> Path:
    folder = tmp_path / "ticket"
    (folder / "inner").mkdir(parents=True)
    (folder / "ticket.json").write_text("{}")
    (folder / "inner" / "weights").write_bytes(b"\0\1" * 1000)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_file_comes_back_as_it_was(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    (tmp_path / "journal").write_bytes(b"first\n")
    storage.put(tmp_path / "journal", "toy/001/journal")
    (tmp_path / "journal").write_bytes(b"first\nsecond\n")
    storage.put(tmp_path / "journal", "toy/001/journal")
    assert storage.exists("toy/001/journal")
    storage.get("toy/001/journal", tmp_path / "back" / "journal")
    assert (tmp_path / "back" / "journal").read_bytes() == b"first\nsecond\n"
    assert storage.folder("toy").names() == ["001"]
    assert storage.folder("toy/001").names() == ["journal"]
    assert storage.names() == ["toy"], "no trace of the check"


def test_a_folder_comes_back_as_it_was_and_replaces_what_was_there(
    storage: Storage, ticket: Path, tmp_path: Path
) -> None:
    storage.put(ticket, "tickets/trial_0")
    back = tmp_path / "back"
    back.mkdir()
    (back / "stale").touch()
    storage.folder("tickets").get("trial_0", back)
    assert content(back) == content(ticket)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_what_is_deleted_is_gone_and_may_be_deleted_again(storage: Storage, ticket: Path) -> None:
    storage.put(ticket, "tickets/trial_0")
    storage.put(ticket / "ticket.json", "checkpoint")
    for _ in range(2):
        storage.delete("tickets/trial_0")
        storage.delete("checkpoint")
        assert not storage.exists("tickets/trial_0")
        assert not storage.exists("checkpoint")


def test_what_is_not_there_is_said_to_be_not_there(storage: Storage, tmp_path: Path) -> None:
    assert not storage.exists("nothing")
    assert storage.folder("nothing").names() == []
    with pytest.raises(FileNotFoundError, match="nothing"):
        storage.get("nothing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_storage_can_be_sent_to_a_worker(storage: Storage, ticket: Path, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(storage))
    there.put(ticket, "ticket")
    storage.get("ticket", tmp_path / "back")
    assert content(tmp_path / "back") == content(ticket)


def test_the_folder_of_an_address_keeps_its_options() -> None:
    storage = Storage("s3://bucket/prefix/?endpoint_override=127.0.0.1:9000&scheme=http")
    expected = "s3://bucket/prefix/toy/001?endpoint_override=127.0.0.1:9000&scheme=http"
    assert storage.folder("toy/001").address == expected
    assert Storage("/shared/runs").folder("toy").address == "/shared/runs/toy"


@pytest.mark.parametrize(("path", "expected"), [("runs", False), ("/a/b", False), ("s3://b", True)])
def test_an_address_is_told_from_a_folder(path: str, expected: bool) -> None:
    assert is_address(path) is expected


def test_a_bucket_that_does_not_exist_is_refused_with_advice(object_store: str) -> None:
    storage = Storage(address(object_store, "runs", bucket="no-such-bucket"))
    with pytest.raises(ConfigError, match="make the bucket, or correct its name") as caught:
        storage.check()
    assert "storage.path: s3://no-such-bucket/runs" in str(caught.value)


def test_a_server_that_is_not_there_is_refused_with_advice(object_store: str) -> None:
    with pytest.raises(ConfigError, match="correct endpoint_override, or start the server"):
        Storage(address("127.0.0.1:9", "runs")).check()


def test_a_place_that_wants_other_credentials_is_refused_with_advice() -> None:
    class Refusing(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = refuse

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ConfigError, match="give this machine and all nodes credentials"):
            Storage(address(f"127.0.0.1:{server.server_port}", "runs")).check()
        server.shutdown()


@pytest.mark.parametrize("path", ["ftp://host/runs", "s3://bucket/x?no_such_option=1"])
def test_an_address_that_pyarrow_does_not_know_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.path: .*: must be a folder, or an address"):
        Storage(path).check()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"storage\.path: .*/file/runs"):
        Storage(str(tmp_path / "file" / "runs")).check()


def test_a_failure_later_on_says_what_was_not_done(object_store: str, ticket: Path) -> None:
    storage = Storage(address(object_store, "runs", bucket="no-such-bucket"))
    with pytest.raises(StorageError, match=r"ticket.json was not copied to a: .*NO_SUCH_BUCKET"):
        storage.put(ticket / "ticket.json", "a")
