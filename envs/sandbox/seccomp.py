"""The system-call filter: a call that no program under test needs is refused before the kernel
executes it.

Every other call is allowed, so a refusal never depends on the habits of a library. The filter is
classic BPF over `struct seccomp_data` (nr, arch, instruction pointer, six arguments). A call of
another architecture, and a call newer than this table, does not exist (ENOSYS), which also covers
x32. Numbers are those of the kernel's unistd headers.
"""

import errno
import platform
import struct
from dataclasses import dataclass
from functools import cache

# name: (x86_64, aarch64); None where the architecture has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes, and the kernel itself
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "syslog": (103, 116),
    "reboot": (169, 142),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # keys are shared by all processes of a host user
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # files by handle, quotas, swap, accounting
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    # clocks, names, hardware, execution domain
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "vhangup": (153, 58),
    # obsolete, kept out of reach
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    # priorities: a program that makes itself wait looks like a program that waits on a busy machine
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    # placement of pages
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # what happens to files that all sandboxes and the host share, and locks on them
    "flock": (73, 32),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    # waits for the disks of the whole host, and cannot be ended while it does
    "sync": (162, 81),
    "syncfs": (306, 267),
    # memory that neither the address-space limit nor the sized /tmp would count
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_NEWEST = 450
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS,TIME} of clone's flags."""
_AF_UNIX = 1
_AF_INET = 2
_AF_INET6 = 10
_ITSELF = 0
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_REFUSED_FCNTL = {
    "F_SETLK": 6,
    "F_SETLKW": 7,
    "F_OFD_SETLK": 37,
    "F_OFD_SETLKW": 38,
    "F_SETLEASE": 1024,
    "F_NOTIFY": 1026,
    "F_SETPIPE_SZ": 1031,
}
"""Locks, leases and notices on files that all sandboxes share, and the size of a pipe, which the
kernel counts for all processes of a host user."""
_TERMINAL_CALLS = ("flock", "inotify_init", "inotify_init1")
_TERMINAL_FCNTL = {"F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW"}
"""A terminal's own files lie in its own memory, and git, SQLite and `tail -f` need these. What it
shares with others is read-only, where only a read lock can be taken."""


@dataclass(frozen=True)
class _Architecture:
    """`column` of the table above, the audit value that the kernel reports, and the numbers of the
    calls whose arguments the filter reads.
    """

    column: int
    audit: int
    clone: int
    clone3: int
    socket: int
    socketpair: int
    ioctl: int
    fcntl: int
    prlimit64: int
    sched_setaffinity: int


_ARCHITECTURES = {
    "x86_64": _Architecture(
        0,
        0xC000003E,
        clone=56,
        clone3=435,
        socket=41,
        socketpair=53,
        ioctl=16,
        fcntl=72,
        prlimit64=302,
        sched_setaffinity=203,
    ),
    "aarch64": _Architecture(
        1,
        0xC00000B7,
        clone=220,
        clone3=435,
        socket=198,
        socketpair=199,
        ioctl=29,
        fcntl=25,
        prlimit64=261,
        sched_setaffinity=122,
    ),
}

_LOAD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06
_NR = 0
_ARCH = 4
_ARGUMENT_0 = 16
_ARGUMENT_1 = 24
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_REFUSE = _ERRNO | errno.EPERM
_UNKNOWN = _ERRNO | errno.ENOSYS


@cache
def program(machine: str = platform.machine(), terminal: bool = False) -> bytes | None:
    """The filter for `bwrap --seccomp`: 8 bytes an instruction. None on an architecture without a
    table. A `terminal` may also use the network of its own namespace and lock files, as git, SQLite
    and services on the loopback interface do.
    """
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    a = architecture
    allowed_names = _TERMINAL_CALLS if terminal else ()
    numbers = [pair[a.column] for name, pair in _REFUSED.items() if name not in allowed_names]
    refused_numbers = sorted(number for number in numbers if number is not None)
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_JUMP_EQUAL, a.audit, yes=1),
        _instruction(_RETURN, _UNKNOWN),
        _instruction(_LOAD, _NR),
        _instruction(_JUMP_GREATER, _NEWEST, no=1),
        _instruction(_RETURN, _UNKNOWN),
        # clone3 hides its flags behind a pointer; the C library falls back to clone when it is
        # missing.
        _instruction(_JUMP_EQUAL, a.clone3, no=1),
        _instruction(_RETURN, _UNKNOWN),
    ]
    code += _when(a.clone, _ARGUMENT_0, _instruction(_JUMP_ANY_BIT, _NEW_NAMESPACES, no=1))
    allowed_arguments = [
        (a.socketpair, _AF_UNIX),
        # Limits and placement of other processes: the supervisor is one.
        (a.prlimit64, _ITSELF),
        (a.sched_setaffinity, _ITSELF),
    ]
    if terminal:
        code += _only(a.socket, (_AF_UNIX, _AF_INET, _AF_INET6))
    else:
        allowed_arguments.append((a.socket, _AF_UNIX))
    for number, value in allowed_arguments:
        code += _when(number, _ARGUMENT_0, _instruction(_JUMP_EQUAL, value, yes=1))
    for request in (_TIOCSTI, _TIOCLINUX):
        code += _when(a.ioctl, _ARGUMENT_1, _instruction(_JUMP_EQUAL, request, no=1))
    refused_fcntl = _REFUSED_FCNTL.keys() - (_TERMINAL_FCNTL if terminal else set())
    for request in (_REFUSED_FCNTL[name] for name in sorted(refused_fcntl)):
        code += _when(a.fcntl, _ARGUMENT_1, _instruction(_JUMP_EQUAL, request, no=1))
    for index, number in enumerate(refused_numbers):
        code.append(_instruction(_JUMP_EQUAL, number, yes=len(refused_numbers) - index))
    return b"".join([*code, _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _REFUSE)])


def _only(number: int, values: tuple[int, ...]) -> list[bytes]:
    """For call `number`: refuse it unless its first argument (low word) is one of `values`."""
    tests = [
        _instruction(_JUMP_EQUAL, value, yes=len(values) - place)
        for place, value in enumerate(values)
    ]
    return [
        _instruction(_JUMP_EQUAL, number, no=len(values) + 3),
        _instruction(_LOAD, _ARGUMENT_0),
        *tests,
        _instruction(_RETURN, _REFUSE),
        _instruction(_LOAD, _NR),
    ]


def _when(number: int, argument: int, unless: bytes) -> list[bytes]:
    """For call `number`: refuse it, unless the comparison `unless` of its argument (low word) jumps
    over the refusal.
    """
    return [
        _instruction(_JUMP_EQUAL, number, no=4),
        _instruction(_LOAD, argument),
        unless,
        _instruction(_RETURN, _REFUSE),
        _instruction(_LOAD, _NR),
    ]


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """`struct sock_filter`; a jump skips `yes` or `no` instructions."""
    return struct.pack("=HBBI", code, yes, no, value)
