"""Which container a process runs in, as its runtime has named it.

In: what the kernel tells of a process in /proc. Out: 64 hexadecimal digits, or nothing:
other ids that occur there have 32, or belong to a pod's sandbox.

Control groups have it in their path (`/docker/ID`, `.../cri-containerd-ID.scope`), but
not where version 2 shows a namespace's root; there the files that the runtime mounts
have it (`/var/lib/docker/containers/ID/hostname`), of Docker and Podman at least.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from femtomp.lanes.liveness import pid_namespace

_OF_GROUP: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
# What is mounted there, in mountinfo's fourth field (proc(5)). In the fifth, where it
# is mounted, a host has such paths of all its containers (`.../ID/mounts/shm`).
_OF_MOUNT: Final = re.compile(
    r"^\d+ \d+ \S+ \S*containers/([0-9a-f]{64})/\S* "
    r"/etc/(?:hostname|hosts|resolv\.conf) ",
    re.MULTILINE,
)

# The inode of the machine's own pid namespace, PROC_PID_INIT_INO in linux/proc_ns.h.
_FIRST_NAMESPACE: Final = 0xEFFFFFFC
# A shell that is the first process of a container, or its child, ends with its command.
_SHELLS: Final = ("sh", "bash", "dash", "ash", "busybox", "zsh")
_MAX_SHELLS: Final = 8


def ends_with_this_process() -> bool:
    """Return whether the end of this process ends all others of its container, or soon.

    So it is for the first process of a pid namespace, for the child of the first one
    (an init that waits for it, as tini; a script), also through further shells, and for
    a process whose parent is outside: of the namespace, or of the container.
    """
    if pid_namespace() in (0, _FIRST_NAMESPACE):
        own = own_container_id()
        return bool(own) and container_id(os.getppid()) != own
    if os.getpid() == 1:
        return True
    parent = os.getppid()
    for _ in range(_MAX_SHELLS):
        if parent <= 1:
            return True
        status = _text(f"/proc/{parent}/stat")
        name, _, rest = status.partition("(")[2].rpartition(")")
        if name not in _SHELLS:
            return False
        parent = int(rest.split()[1])
    return False


def container_id(pid: int | str) -> str:
    """Return the id of a process's container; nothing if it is in none that is known.

    70 us: for the supervisor, and not for workers.
    """
    return found_in(_text(f"/proc/{pid}/cgroup"), _text(f"/proc/{pid}/mountinfo"))


@lru_cache(maxsize=1)
def own_container_id() -> str:
    """Return the id of this process's container."""
    return container_id("self")


def found_in(cgroup: str, mountinfo: str) -> str:
    """Return the id in what two files say.

    Examples
    --------
    >>> found_in("0::/system.slice/docker-" + "ab" * 32 + ".scope", "")[:8]
    'abababab'
    >>> found_in("0::/user.slice/session-4.scope", "")
    ''
    """
    # The last is the innermost, of containers in containers.
    ids = _OF_GROUP.findall(cgroup) or _OF_MOUNT.findall(mountinfo)
    return str(ids[-1]) if ids else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""  # it has ended, or is none of ours to look at
