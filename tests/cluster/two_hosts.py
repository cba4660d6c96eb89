"""Two hosts on one Linux machine: network namespaces with an sshd each, for `ray up` and `ray submit`.

A host has its own network, processes, name, home and /tmp; the rest of the disk is that of this machine. It wants root,
ip, unshare, sshd and rsync.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TOOLS = ("ip", "unshare", "mount", "ssh", "ssh-keygen", "sshd", "rsync")
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
UP_SECONDS = 300

STUDY = """
name: tiny
data: {name: digits, normal_classes: [3], max_test_images: 60}
model: {base_channels: 2}
train: {epochs: 2, batch_size: 32, precision: float32}
evaluate: {every: 1, max_images: 30}
seeds: [0, 1]
references: [nearest_neighbour]
"""

SSHD = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""

# What is needed below /tmp or /root is set aside, and put back after those are covered.
HOST = """
set -e
hostname {name}
mkdir -p /run/sshd
mount -t tmpfs none /mnt
n=0; for kept in {kept}; do n=$((n+1)); mkdir /mnt/$n; mount --rbind "$kept" /mnt/$n; done
mount -t tmpfs none /tmp; chmod 1777 /tmp
mount -t tmpfs none /root
n=0; for kept in {kept}; do n=$((n+1)); mkdir -p "$kept"; mount --rbind /mnt/$n "$kept"; done
touch /root/.bashrc
exec $(command -v sshd) -D -e -f {config}
"""


def missing() -> str | None:
    """Return why hosts cannot be made here, None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=search_path()) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    name = f"puzzle{os.getpid()}"
    for command in (["ip", "netns", "add", name], ["unshare", "--pid", "--mount", "--uts", "--fork", "true"]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment(Path("/")), check=False)
        if done.returncode != 0:
            return f"{' '.join(command[:2])} is not allowed here: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], env=environment(Path("/")), check=True)
    return None


def search_path() -> str:
    """Return the search path, this Python's folder first and the system's tools last."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:{SYSTEM_PATH}"


def environment(home: Path) -> dict[str, str]:
    """Return the environment of the machine that submits."""
    return os.environ | {"HOME": str(home), "PATH": search_path(), "COLUMNS": "200", "RAY_AUTH_MODE": "token"}


@dataclass
class TwoHosts:
    """A cluster file for two hosts that are up, and what to run commands with.

    Attributes:
        folder: seen by the hosts and by this machine.
        cluster_file: docker/cluster-local.yaml with the addresses of the hosts.
    """

    folder: Path
    cluster_file: Path
    head: str

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of a user in the checkout."""
        return subprocess.run(
            command,
            shell=True,
            cwd=REPOSITORY,
            env=environment(self.folder / "home"),
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the line that --encode prints."""
        study = self.folder / "tiny.yaml"
        study.write_text(STUDY, encoding="utf-8")
        encoded = self.run(
            shlex.join(
                ["python", "docker/submit.py", "--cluster", str(self.cluster_file), "--encode", str(study), *arguments]
            )
        )
        assert encoded.returncode == 0, encoded.stderr
        return self.run(encoded.stdout.splitlines()[0])

    def nodes(self) -> int:
        """Return how many nodes the head knows."""
        code = "import ray; ray.init(address='auto', log_to_driver=False); print('nodes', len(ray.nodes()))"
        options = f"-i {self.folder}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        remote = f"RAY_AUTH_MODE=token puzzle_study_venv/bin/python -c {shlex.quote(code)}"
        done = self.run(f"ssh {options} root@{self.head} {shlex.quote(remote)}")
        return int(done.stdout.split()[-1]) if "nodes" in done.stdout else 0


@contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Make two hosts and the network between them and this machine; all of it is gone afterwards."""
    number = os.getpid() % 250 + 1
    network = f"10.{number}.77"
    bridge = f"pzbr{number}"
    names = [f"puzzle{number}h{index}" for index in (1, 2)]
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    config = folder / "sshd_config"
    config.write_text(SSHD.format(folder=folder), encoding="utf-8")
    prefix = Path(sys.executable).parent.parent
    kept = [path for path in {folder, REPOSITORY, prefix, Path(sys.base_prefix)} if covered(path)]
    hosts: list[subprocess.Popen[bytes]] = []
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{network}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for index, name in enumerate(names, 1):
            ip("netns", "add", name)
            ip("link", "add", f"pz{number}v{index}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"pz{number}v{index}", "master", bridge, "up")
            ip("-n", name, "addr", "add", f"{network}.1{index}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "route", "add", "default", "via", f"{network}.1")
            script = HOST.format(
                name=f"host{index}", kept=" ".join(shlex.quote(str(path)) for path in kept), config=config
            )
            command = ["ip", "netns", "exec", name, "unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child"]
            command += ["--mount-proc", "bash", "-c", script]
            with (folder / f"host{index}.log").open("wb") as log:
                hosts.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment(home)))
        cluster_file = folder / "cluster.yaml"
        cluster_file.write_text(yaml.safe_dump(adapted(network, folder)), encoding="utf-8")
        yield TwoHosts(folder, cluster_file, f"{network}.11")
    finally:
        for host in hosts:
            # The host's first process; all others of its process namespace end with it.
            host.send_signal(signal.SIGKILL)
            host.wait()
        for index, name in enumerate(names, 1):
            subprocess.run(["ip", "link", "del", f"pz{number}v{index}"], env=environment(home), check=False)
            subprocess.run(["ip", "netns", "del", name], env=environment(home), check=False)
        subprocess.run(["ip", "link", "del", bridge], env=environment(home), check=False)


def adapted(network: str, folder: Path) -> dict[str, Any]:
    """Return docker/cluster-local.yaml for the two hosts, where this machine's packages need not be installed."""
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker" / "cluster-local.yaml").read_text(encoding="utf-8"))
    content["provider"] |= {"head_ip": f"{network}.11", "worker_ips": [f"{network}.12"]}
    content["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    content["min_workers"] = content["max_workers"] = 1
    linked = f"ln -sfn {shlex.quote(str(Path(sys.executable).parent.parent))} ~/puzzle_study_venv"
    content["setup_commands"] = [linked] + [
        command for command in content["setup_commands"] if "pip install" not in command and "-m venv" not in command
    ]
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        content[name] = [
            command.replace("ray start", "ray start --num-cpus=1 --object-store-memory=80000000")
            for command in content[name]
        ]
    return content


def covered(path: Path) -> bool:
    """Whether a path vanishes when a host gets a home and a /tmp of its own."""
    return path.is_relative_to("/tmp") or path.is_relative_to("/root")


def ip(*arguments: str) -> None:
    """Run ip, or raise."""
    subprocess.run(["ip", *arguments], check=True, env=environment(Path("/")))


def wait_for_worker(hosts: TwoHosts) -> None:
    """Wait until the autoscaler on the head has started the other host."""
    end = time.monotonic() + UP_SECONDS
    while hosts.nodes() < 2:
        assert time.monotonic() < end, "the second host did not join"
        time.sleep(1)
