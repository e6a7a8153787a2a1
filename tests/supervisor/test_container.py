"""Containers' ids: from control groups, from mounts, and in a worker's resource."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from femtomp.supervisor.container import container_id, found_in
from tests.components import require, unshare_command
from tests.examples.pool import ROOT

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
MOUNT = "612 611 259:1 {} /etc/hostname rw,relatime - ext4 /dev/root rw"
CASES = {
    "Docker, version 1": (f"12:cpu:/docker/{ID}\n11:pids:/docker/{ID}\n", "", ID),
    "Docker, systemd": (f"0::/system.slice/docker-{ID}.scope\n", "", ID),
    "Kubernetes": (f"0::/kubepods/besteffort/pod1-2/cri-containerd-{ID}.scope", "", ID),
    "Podman": (f"0::/machine.slice/libpod-{ID}.scope/container", "", ID),
    "in a container": (f"0::/docker/{OTHER}/docker/{ID}", "", ID),
    "a namespace's root": ("0::/", MOUNT.format(f"/containers/{ID}/hostname"), ID),
    "Podman's mounts": (
        "0::/",
        MOUNT.format(f"/storage/overlay-containers/{ID}/userdata/hostname"),
        ID,
    ),
    "a host's mounts of containers": (
        "0::/user.slice/session-4.scope",
        f"800 25 0:45 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw",
        "",
    ),
    "a host's directory of a container, mounted": (
        "0::/",
        f"9 8 0:4 /var/lib/docker/containers/{ID}/ /mnt/logs ro - ext4 a ro",
        "",
    ),
    "a pod's sandbox": ("0::/", MOUNT.format(f"/sandboxes/{ID}/hostname"), ""),
    "32 digits": (f"0::/ecs/{'ab' * 16}", "", ""),
    "65 digits": (f"0::/docker/{ID}0", "", ""),
    "no container": ("0::/user.slice/user-1000.slice/session-4.scope", "", ""),
    "nothing": ("", "", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_id_is_found_by_its_form(name: str) -> None:
    """64 hexadecimal digits, where runtimes put them; anything else is none."""
    cgroup, mountinfo, expected = CASES[name]
    assert found_in(cgroup, mountinfo) == expected


def test_a_process_that_is_gone_has_none() -> None:
    """Nobody's pid is no error."""
    assert container_id(2**22 + 1) == ""


PROGRAM = """
import logging, os
import femtomp
with femtomp.start_server("file:records", name="shop"):
    femtomp.worker_init()
    logging.getLogger("shop").info("here")
    pid = os.fork()
    if not pid:
        logging.getLogger("shop").info("in a child")
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_workers_resource_has_it(tmp_path) -> None:
    """In a mount namespace like Docker's, each worker's full resource has the id, that
    of one which has ended too.
    """
    require("tmpfs")
    hostname = tmp_path / "containers" / ID / "hostname"
    hostname.parent.mkdir(parents=True)
    hostname.write_text("inside\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    script = (
        f"mount --bind {hostname} /etc/hostname && exec {sys.executable} program.py"
    )
    subprocess.run(
        [*unshare_command(), "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    lines = (tmp_path / "records").read_text().splitlines()
    events = [r for r in map(json.loads, lines) if "event_name" in r]
    started = [r for r in events if r["event_name"] == "femtomp.worker.started"]
    assert [r["attributes"]["container.id"] for r in started] == [ID, ID]
