"""A folder that all machines of a search reach: on a shared disk, or at an address like s3://."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pyarrow import ArrowException
from pyarrow import fs as arrow

from spaces.base import ConfigError
from spaces.study import StudyConfig

_CHUNK = 2**22


class StorageError(OSError):
    """A storage that worked at the start does not answer, or refuses."""


@dataclass(frozen=True)
class Storage:
    """A folder at an address that pyarrow knows: a path, s3://bucket/prefix, gs://, hdfs://.

    S3-compatible servers other than Amazon's are given in the address: `s3://bucket/prefix?
    endpoint_override=HOST:PORT&scheme=http`. Credentials are those of the machine (environment
    variables, profiles, roles), never part of the address. Names below are relative, with `/`.
    """

    address: str

    def check(self) -> None:
        """Write, read and delete a small file; ConfigError when that cannot be done."""
        name = f".goldenticket-{uuid.uuid4().hex}"
        filesystem, base = _opened(self.address)
        try:
            if isinstance(filesystem, arrow.LocalFileSystem):
                filesystem.create_dir(base)
            with filesystem.open_output_stream(f"{base}/{name}") as stream:
                stream.write(b"goldenticket")
            with filesystem.open_input_stream(f"{base}/{name}") as stream:
                stream.read()
            filesystem.delete_file(f"{base}/{name}")
        except (OSError, ArrowException) as error:
            raise ConfigError(f"storage.path: {self.address}: {_hint(error)}") from error

    def folder(self, name: str) -> Storage:
        """A folder in this one."""
        path, mark, options = self.address.partition("?")
        return Storage(f"{path.rstrip('/')}/{name}{mark}{options}")

    def write(self, content: bytes, name: str) -> None:
        """Write a file, whole or not at all."""
        with self._told(f"{name} was not written"):
            filesystem, base = _opened(self.address)
            target = f"{base}/{name}"
            if not isinstance(filesystem, arrow.LocalFileSystem):
                with filesystem.open_output_stream(target) as stream:
                    stream.write(content)
                return
            part = Path(f"{target}.{uuid.uuid4().hex}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(content)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def put(self, local: Path, name: str) -> None:
        """Copy a file, or a folder with all that is in it, to here; each file whole or not."""
        with self._told(f"{local} was not copied to {name}"):
            if local.is_file():
                self.write(local.read_bytes(), name)
                return
            for path in sorted(local.rglob("*")):
                if path.is_file():
                    self.write(path.read_bytes(), f"{name}/{path.relative_to(local).as_posix()}")

    def get(self, name: str, local: Path) -> None:
        """Copy a file, or a folder with all that is in it, from here, whole or not at all.

        FileNotFoundError when there is none.
        """
        with self._told(f"{name} was not copied to {local}"):
            files = self._files(name)
            local.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{local.name}.", dir=local.parent) as part:
                whole = Path(part) / "whole"
                for relative in files:
                    self._get_file(f"{name}/{relative}" if relative else name, whole / relative)
                if local.is_dir():
                    shutil.rmtree(local)
                whole.replace(local)

    def exists(self, name: str) -> bool:
        """Whether there is a file or a folder of this name."""
        with self._told(f"{name} was not looked up"):
            filesystem, base = _opened(self.address)
            found = filesystem.get_file_info(f"{base}/{name}").type
            return bool(found != arrow.FileType.NotFound)

    def names(self) -> list[str]:
        """Names of the files and folders right in here."""
        with self._told("it was not listed"):
            filesystem, base = _opened(self.address)
            selector = arrow.FileSelector(base, allow_not_found=True)
            return sorted(info.base_name for info in filesystem.get_file_info(selector))

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if there is one."""
        with self._told(f"{name} was not deleted"):
            filesystem, base = _opened(self.address)
            found = filesystem.get_file_info(f"{base}/{name}").type
            if found == arrow.FileType.File:
                filesystem.delete_file(f"{base}/{name}")
            elif found == arrow.FileType.Directory:
                filesystem.delete_dir(f"{base}/{name}")

    def _get_file(self, name: str, local: Path) -> None:
        filesystem, base = _opened(self.address)
        local.parent.mkdir(parents=True, exist_ok=True)
        with filesystem.open_input_stream(f"{base}/{name}") as stream, local.open("wb") as target:
            shutil.copyfileobj(stream, target, _CHUNK)

    def _files(self, name: str) -> list[str]:
        """Files of a folder, by names relative to it; of a file, "" alone."""
        filesystem, base = _opened(self.address)
        info = filesystem.get_file_info(f"{base}/{name}")
        if info.type == arrow.FileType.NotFound:
            raise FileNotFoundError(f"{self.address} has no {name}")
        if info.type == arrow.FileType.File:
            return [""]
        found = filesystem.get_file_info(arrow.FileSelector(info.path, recursive=True))
        files = [each.path for each in found if each.type == arrow.FileType.File]
        return [os.path.relpath(path, info.path) for path in files]

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ArrowException) as error:
            raise StorageError(f"{self.address}: {what}: {error}") from error


def storage_of(study: StudyConfig, *names: str) -> Storage | None:
    """Where a study's searches are kept, or one of them; None when they are in a folder here."""
    if not is_address(study.storage.path):
        return None
    return Storage(study.storage.path).folder("/".join((study.name, *names)))


def is_address(path: str) -> bool:
    """Whether a storage.path is an address rather than a folder of this machine."""
    return "://" in path


@lru_cache
def _opened(address: str) -> tuple[arrow.FileSystem, str]:
    """The file system of an address, and the path in it; ConfigError when pyarrow knows none."""
    try:
        if not is_address(address):
            return arrow.LocalFileSystem(), os.path.abspath(address)
        filesystem, path = arrow.FileSystem.from_uri(address)
    except (OSError, ArrowException) as error:
        raise ConfigError(
            f"storage.path: {address}: {error}: must be a folder, or an address such as "
            "s3://bucket/prefix or gs://bucket/prefix"
        ) from error
    return filesystem, path.rstrip("/")


def _hint(error: Exception) -> str:
    text = str(error)
    if "NO_SUCH_BUCKET" in text or "bucket does not exist" in text.lower():
        advice = "make the bucket, or correct its name"
    elif "ACCESS_DENIED" in text or "redential" in text or "INVALID_ACCESS_KEY" in text:
        advice = (
            "give this machine and all nodes credentials that may read and write there, for "
            "example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    elif "NETWORK_CONNECTION" in text or "connect" in text.lower():
        advice = "correct endpoint_override, or start the server"
    else:
        advice = "it must be a place where files can be written, read and deleted"
    return f"{text}: {advice}"
