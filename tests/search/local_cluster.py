"""A Ray cluster of several nodes on this machine, in processes of its own, on loopback only.

Run as a program, it starts nodes and obeys orders on its standard input; `LocalCluster` is how a
test holds it. Its nodes do not find goldenticket: what a trial needs must be sent to them.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_HIDE = f"""import sys
sys.path[:] = [path for path in sys.path if path not in {[str(ROOT), str(HERE)]}]
"""
_NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "num_cpus": 1}
_MARK = "of the cluster: "


class LocalCluster:
    """Starts a head without room for trials, and `nodes` with what each has, e.g. num_gpus=2.

    With `jobs`, a head alone, which has a job server and room for a trial: nodes of one machine
    share a folder for what jobs bring along, and each of them empties it when a job comes.
    """

    def __init__(self, folder: Path, nodes: int = 2, *, jobs: bool = False, **has: Any):
        self.folder = folder
        self.hidden = hidden = folder / "hide_goldenticket"
        hidden.mkdir(parents=True)
        (hidden / "sitecustomize.py").write_text(_HIDE)
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        if jobs:  # else they take 127.0.0.1 for the machine's outward address: nothing is there
            self.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        words = [sys.executable, __file__, str(0 if jobs else nodes), json.dumps(has)]
        words += [json.dumps(jobs)]
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            env=self._with(PYTHONPATH=str(hidden)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = self._answer()
        self.address: str = told["address"]
        self.dashboard = f"http://{told['dashboard']}"

    def add(self, **has: Any) -> None:
        """One node more."""
        self._order({"add": has})

    def kill(self, node_id: str) -> None:
        """End a node and all that runs on it, without notice (SIGKILL)."""
        self._order({"kill": node_id})

    def run(self, script: str, *words: str, folder: Path | None = None) -> "subprocess.Popen[str]":
        """A Python program in a folder; it has the tests' modules and can join the cluster."""
        path = os.pathsep.join([str(ROOT), str(HERE)])
        return subprocess.Popen(
            [sys.executable, "-c", script, *words],
            cwd=folder or self.folder,
            env=self._with(PYTHONPATH=path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _with(self, **more: str) -> dict[str, str]:
        own = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        return {**os.environ, **self.environment, **own, **more}

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return dict(json.loads(line.removeprefix(_MARK)))
        raise RuntimeError("the cluster ended")


def _tell(**what: Any) -> None:
    print(_MARK + json.dumps(what), flush=True)


def _kill(node: Any) -> None:
    """As if the machine lost its power: the raylet goes, and its workers at the same time.

    Workers that are left alone go on for a dozen seconds, until the cluster misses their raylet.
    """
    for processes in node.all_processes.values():
        for info in processes:
            threads = Path(f"/proc/{info.process.pid}/task").iterdir()
            children = [thread / "children" for thread in threads]
            words = " ".join(path.read_text() for path in children).split()
            for pid in (info.process.pid, *map(int, words)):
                os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Start what the arguments say, and obey until the standard input ends."""
    count, has, jobs = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    from mlflow_server import free_port
    from ray._private import services
    from ray.cluster_utils import Cluster

    services.resolve_ip_for_localhost = lambda host: host  # as in search/ray_session.py
    head: dict[str, Any] = {**_NODE, "num_cpus": int(jobs), "include_dashboard": jobs}
    if jobs:
        head |= {"dashboard_host": "127.0.0.1", "dashboard_port": free_port()}
    head["dashboard_agent_listen_port"] = free_port()  # nodes share an address: none is the usual
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {}

    def add(has: dict[str, Any]) -> None:
        own = {"dashboard_agent_listen_port": free_port()}
        node = cluster.add_node(**{**_NODE, **own, **has})
        nodes[node.node_id] = node

    for _ in range(count):
        add(has)
    _tell(address=cluster.address, dashboard=cluster.webui_url)
    for line in sys.stdin:
        order = json.loads(line)
        if "add" in order:
            add(order["add"])
        else:
            _kill(nodes[order["kill"]])
        _tell(done=order)
    cluster.shutdown()


if __name__ == "__main__":
    main()
