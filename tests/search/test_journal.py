"""The journal's file: whole entries, one process, nothing lost when that is killed."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from search.journal import JournalFile
from spaces import ConfigError


def entries(path: Path) -> list[dict[str, int]]:
    return list(JournalFile(path).read_logs(0))


def test_entries_are_read_once_in_their_order_and_again_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    file = JournalFile(path)
    assert list(file.read_logs(0)) == []
    file.append_logs([{"a": 1}, {"b": 2}])
    assert list(file.read_logs(0)) == [{"a": 1}, {"b": 2}]
    file.append_logs([{"c": 3}])
    assert list(file.read_logs(2)) == [{"c": 3}]
    assert list(file.read_logs(3)) == []
    assert entries(path) == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"a":1}\n{"b":')
    file = JournalFile(path)
    file.append_logs([{"c": 3}])
    assert list(file.read_logs(0)) == [{"a": 1}, {"c": 3}]
    assert path.read_bytes() == b'{"a":1}\n{"c":3}\n'


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = """
        import os, signal, sys
        from pathlib import Path
        from search.journal import JournalFile
        file = JournalFile(Path(sys.argv[1]))
        for number in range(100):
            file.append_logs([{"n": number}])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert ended.returncode == -9
    assert entries(path) == [{"n": number} for number in range(100)]


def test_a_second_process_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = """
        import sys
        from pathlib import Path
        from search.journal import JournalFile
        file = JournalFile(Path(sys.argv[1]))
        print("open", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match="another process is running this search"):
            JournalFile(path)
        other.kill()
    JournalFile(path).append_logs([{"a": 1}])


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk: a write is cut short, then refused.
    path = tmp_path / "journal"
    script = """
        import resource, signal, sys
        from pathlib import Path
        from search.journal import JournalFile
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        file = JournalFile(Path(sys.argv[1]))
        file.append_logs([{"a": 1}])
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
        try:
            file.append_logs([{"b": "too long for what is left"}])
        except OSError as error:
            print("refused")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        file.append_logs([{"c": 3}])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ended.stdout == "refused\n"
    assert entries(path) == [{"a": 1}, {"c": 3}]
