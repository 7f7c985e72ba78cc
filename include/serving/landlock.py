"""Landlock: a Linux process gives up rights for good, without being root: here all but to read some folders.

Source: Linux, Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h; the numbers of the system
calls are the same on x86 and ARM. What a kernel does not know is left out: truncation is denied since Linux 6.2, TCP
since 6.7, signals and abstract sockets since 6.12. It has no rule for UDP, for sockets in files, or for memory.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_NET_SINCE, _SCOPE_SINCE = 4, 6
_ALL_OF_TWO = 0b11
"""Of the network: bind and connect; of the scope: abstract sockets and signals."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the version that the kernel has; 0: none, or a container's profile forbids it."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def restrict_to_reading(paths: Iterable[Path]) -> None:
    """Deny this thread, and what it starts from now on, every other file; also TCP, and signals to other processes.

    Args:
        paths: Files and folders; those that do not exist, or could not be read before, are left out.

    Raises:
        OSError: The kernel refuses.
    """
    version = landlock_version()
    files = (1 << (12 + min(version, 3))) - 1  # 13 rights at first; renaming came with version 2, truncation with 3
    net, scope = _ALL_OF_TWO * (version >= _NET_SINCE), _ALL_OF_TWO * (version >= _SCOPE_SINCE)
    attributes = struct.pack("=QQQ", files, net, scope)
    size = 8 * (1 + (version >= _NET_SINCE) + (version >= _SCOPE_SINCE))
    ruleset = _call(_CREATE_RULESET, attributes, size, 0)
    for path in (path for path in paths if os.access(path, os.R_OK)):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, opened), 0)
        os.close(opened)
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _call(number: int, *given: int | bytes) -> int:
    answer = int(_LIBC.syscall(number, *given))
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"landlock {number}: {os.strerror(ctypes.get_errno())}")
    return answer
