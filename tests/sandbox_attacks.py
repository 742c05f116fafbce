"""Programs that try to harm the machine they run on. Each prints LEAK only where it got what it
must not get.

`PRELUDE` comes before each: it says in which PID namespace the program runs (the host looks there
for survivors) and reads from standard input where the host's bait lies.
"""

from dataclasses import dataclass, field
from typing import Any

PRELUDE = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, threading, time
print(os.readlink("/proc/self/ns/pid"), flush=True)
bait = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, action):
    try:
        result = action()
    except BaseException as error:
        print("refused", what, type(error).__name__, flush=True)
    else:
        print("LEAK", what, repr(result)[:200], flush=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
def numbers(*pairs):
    arm = os.uname().machine == "aarch64"
    return [b if arm else a for a, b in pairs]
"""


@dataclass(frozen=True)
class Attack:
    """A program, how its run may end, and limits that differ from the suite's."""

    name: str
    source: str
    endings: tuple[str, ...] = ("exited",)
    limits: dict[str, Any] = field(default_factory=dict)
    stdin: bytes = b""


ATTACKS = [
    Attack(
        "the supervisor's memory and files",
        "for f in ('mem', 'oom_score_adj', 'coredump_filter', 'clear_refs', 'sched', 'autogroup',\n"
        "          'timerslack_ns', 'comm', 'setgroups'):\n"
        " for p in (1, 'self'):\n"
        "  attempt(f'{p}/{f}', lambda: os.open(f'/proc/{p}/{f}', os.O_WRONLY))\n"
        "attempt('mem', lambda: os.open('/proc/1/mem', os.O_RDWR))",
    ),
    Attack(
        "the supervisor's report",
        "for name in os.listdir('/proc/1/fd'):\n"
        " path = '/proc/1/fd/' + name\n"
        " for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 0o10000000):\n"
        "  attempt(name, lambda: os.write(os.open(path, way), bytes(16)))\n"
        " attempt('connect', lambda: socket.socket(socket.AF_UNIX).connect(path))",
    ),
    Attack(
        "the supervisor's limits and place",
        "for k in ('AS', 'CPU', 'NOFILE', 'FSIZE'):\n"
        " attempt(k, lambda: resource.prlimit(1, getattr(resource, 'RLIMIT_' + k), (0, 0)))\n"
        "attempt('affinity', lambda: os.sched_setaffinity(1, {0}))\n"
        "attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.sched_setaffinity(0, {0})\n"
        "print('its own')",
    ),
    Attack(
        "locks on files that all share",
        "import fcntl, struct\n"
        "f = open('/usr/bin/env', 'rb')\n"
        "lock = struct.pack('hhqqi', fcntl.F_RDLCK, 0, 0, 1, 0)\n"
        "for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):\n"
        " attempt('flock', lambda: fcntl.flock(f, kind))\n"
        "for command in (6, 7, 37, 38): attempt(command, lambda: fcntl.fcntl(f, command, lock))\n"
        "attempt('lease', lambda: fcntl.fcntl(f, 1024, fcntl.F_RDLCK))",
    ),
    Attack(
        "notices of what happens to files that all share",
        "import fcntl\n"
        "d = os.open('/usr/bin', os.O_RDONLY)\n"
        "attempt('dnotify', lambda: fcntl.fcntl(d, 1026, 1))\n"
        "for n in numbers((253, 26), (294, 26), (300, 262)): attempt(n, lambda: call(n, 0))",
    ),
    Attack(
        "the disks of the host",
        "d = os.open('/usr/bin', os.O_RDONLY)\nfor n in numbers((162, 81), (306, 267)): "
        "attempt(n, lambda: call(n, d))",
    ),
    Attack(
        "packages of the host",
        "import glob\n"
        "roots = ('/usr', '/usr/local', sys.base_prefix)\n"
        "patterns = [f'{r}/lib*/python3*/{k}-packages' for r in roots for k in ('site', 'dist')]\n"
        "folders = [f for pattern in patterns for f in glob.glob(pattern)]\n"
        "print('LEAK' if any(map(os.listdir, folders)) else 'nothing there')\n"
        "sys.path += folders\n"
        "for m in ('numpy', 'pip', 'yaml', 'envs', 'r2v_dist'): attempt(m, lambda: __import__(m))\n"
        "for f in folders: attempt(f, lambda: open(f + '/x', 'w'))",
    ),
    Attack(
        "more than its share of what the kernel counts by user",
        "import fcntl\n"
        "attempt('pipe', lambda: fcntl.fcntl(os.pipe()[1], 1031, 1 << 20))\n"
        "create, timer = numbers((222, 107))[0], ctypes.c_int()\n"
        "attempt('timers', lambda: [call(create, 1, None, ctypes.byref(timer)) for _ in "
        "range(1000)])",
    ),
    Attack(
        "a race for its own input",
        "w = os.open('/proc/self/fd/0', os.O_WRONLY | os.O_NONBLOCK)\n"
        "os.set_blocking(0, False); end = time.time() + 1\n"
        "os.fork(); os.fork()\n"
        "while time.time() < end:\n"
        " for step in (lambda: os.read(0, 4096), lambda: os.write(w, bytes(4096))):\n"
        "  try: step()\n"
        "  except BlockingIOError: pass",
        stdin=bytes(8 << 20),
    ),
    Attack(
        "network by pairs",
        "for family in (2, 10, 16, 17, 21, 29, 30, 38, 40, 43, 44):\n"
        " kind = socket.SOCK_RAW if family == 17 else socket.SOCK_STREAM\n"
        " made = libc.socketpair(family, kind, 0, (ctypes.c_int * 2)())\n"
        " if made == 0 or ctypes.get_errno() != 1: print('LEAK reached', family)",
    ),
    Attack(
        "fork bomb",
        "while True:\n try: os.fork()\n except OSError: pass",
        ("timeout",),
        {"wall_s": 1.0},
    ),
    Attack(
        "fork bomb that hides in sessions",
        "while True:\n try: os.fork() or os.setsid()\n except OSError: pass",
        ("timeout",),
        {"wall_s": 1.0},
    ),
    Attack(
        "threads without end",
        "def more():\n for n in range(64): threading.Thread(target=time.sleep, args=(9,), "
        "daemon=True).start()\n"
        "attempt('64 threads', more)",
    ),
    Attack(
        "memory of one process",
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
        ("memory",),
    ),
    Attack("one huge object", "x = bytearray(1 << 40)", ("memory",)),
    Attack(
        "memory of many processes",
        "for _ in range(8):\n if not os.fork():\n  x = bytearray(100 << 20); x[::4096] = b'x' * "
        "len(x[::4096]); break\ntime.sleep(9)",
        ("timeout", "memory"),
        {"wall_s": 2.0},
    ),
    Attack(
        "memory behind files",
        "attempt('memfd', lambda: os.memfd_create('x'))\nattempt('shmget', lambda: "
        "call(*numbers((29, 194)), 0, 1 << 30, 0o1600))\n"
        "attempt('/dev/shm', lambda: open('/dev/shm/x', 'wb').write(bytes(2 << 20)))",
    ),
    Attack("one large file", "attempt('17 MiB', lambda: open('x', 'wb').write(bytes(17 << 20)))"),
    Attack(
        "many large files",
        "attempt('80 MiB', lambda: [open(f'x{n}', 'wb').write(bytes(8 << 20)) for n in range(10)])",
    ),
    Attack(
        "many empty files",
        "n = 0\nwhile True:\n open(f'x{n}', 'w').close(); n += 1",
        ("timeout", "memory", "exited"),
        {"wall_s": 1.0},
    ),
    Attack(
        "writing outside of /tmp",
        "for d in ('/', '/usr', '/usr/lib', '/dev', '/proc', sys.base_prefix, "
        "os.path.dirname(os.__file__), bait['folder']):\n"
        " attempt(d, lambda: open(d + '/r2v-attack', 'w').write('x'))",
    ),
    Attack(
        "changing the interpreter for programs to come",
        "attempt('os.py', lambda: open(os.__file__, 'a').write('x'))\nattempt('unlink', lambda: "
        "os.unlink(os.__file__))\n"
        "attempt('chmod', lambda: os.chmod(sys.executable, 0o777))\n"
        "open('/tmp/work/os.py', 'w').write('x'); open('/tmp/sitecustomize.py', 'w')",
    ),
    Attack("output flood", "while True: sys.stdout.write('x' * 4096)", ("output_limit",)),
    Attack(
        "error flood by children",
        "[os.fork() for _ in range(2)]\nwhile True: os.write(2, b'x' * 65536)",
        ("output_limit",),
    ),
    Attack("one endless line without a pause", "os.write(1, b'y' * (64 << 20))", ("output_limit",)),
    Attack(
        "processor spin",
        "while True: pass",
        ("cpu_limit", "timeout"),
        {"cpu_s": 1.0, "wall_s": 3.0},
    ),
    Attack(
        "processor spin that ignores the warning",
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        ("cpu_limit", "timeout"),
        {"cpu_s": 1.0, "wall_s": 4.0},
    ),
    Attack("spin inside one instruction", "9 ** 9 ** 9", ("timeout",), {"wall_s": 1.0}),
    Attack("sleep", "time.sleep(60)", ("timeout",), {"wall_s": 2.0}),
    Attack(
        "sleep deaf to signals",
        "for s in set(signal.Signals) - {9, 19}: signal.signal(s, "
        "signal.SIG_IGN)\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "time.sleep(60)",
        ("timeout",),
        {"wall_s": 2.0},
    ),
    Attack(
        "stopping itself", "os.kill(os.getpid(), signal.SIGSTOP)", ("timeout",), {"wall_s": 2.0}
    ),
    Attack(
        "signals to the parent",
        "for s in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL): os.kill(os.getppid(), s)\n"
        "os.kill(1, signal.SIGINT); assert os.getppid() == 1; attempt('all', lambda: os.kill(-1, "
        "signal.SIGKILL))\nprint('alive')",
    ),
    Attack(
        "signals to the host",
        "for pid in (bait['pid'], bait['own_pid']): attempt(f'kill {pid}', lambda: os.kill(pid, "
        "signal.SIGKILL))\n"
        "attempt('killpg', lambda: os.killpg(bait['pid'], signal.SIGKILL))",
    ),
    Attack(
        "ptrace",
        "ptrace, read, getfd = numbers((101, 117), (310, 270), (438, 438))\nattempt('attach', "
        "lambda: call(ptrace, 16, 1, 0, 0))\n"
        "attempt('seize', lambda: call(ptrace, 0x4206, 1, 0, 0))\nattempt('traceme', lambda: "
        "call(ptrace, 0, 0, 0, 0))\n"
        "attempt('vm_readv', lambda: call(read, 1, 0, 0, 0, 0, 0))\nattempt('getfd', lambda: "
        "call(getfd, os.pidfd_open(1), 0, 0))",
    ),
    Attack(
        "reading /proc",
        "for f in ('mem', 'environ', 'maps', 'root/etc/passwd', 'cwd/etc/passwd', 'fd/0'):\n"
        " attempt(f, lambda: open(f\"/proc/{bait['pid']}/{f}\"))\n"
        "for f in ('root/etc/passwd', 'cwd/../../etc/passwd', 'root' + bait['file']): attempt(f, "
        "lambda: open('/proc/1/' + f))\n"
        "for f in ('environ', 'cmdline'): print('LEAK' if bait['secret'] in open('/proc/1/' + "
        "f).read() else 'no secret')\n"
        "attempt('kcore', lambda: open('/proc/kcore', 'rb').read(64))\nattempt('kmsg', lambda: "
        "open('/proc/kmsg', 'rb').read(64))\n"
        "others = [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, "
        "os.getpid())]\nprint('LEAK' if others else 'alone')",
    ),
    Attack(
        "writing /proc",
        "for f in ('sysrq-trigger', 'sys/kernel/core_pattern', 'sys/kernel/hostname', "
        "'sys/vm/overcommit_memory', '1/uid_map', '1/mem'):\n"
        " attempt(f, lambda: os.write(os.open('/proc/' + f, os.O_WRONLY), b'1'))\n"
        "attempt('oom', lambda: os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), "
        "b'-1000'))",
    ),
    Attack(
        "reading the host's files",
        "profile = os.path.join('/root', '.profile')\n"
        "for f in ('/etc/passwd', '/etc/shadow', '/etc/hostname', profile, '/home', '/var', "
        "'/run', '/sys', bait['file']):\n"
        " attempt(f, lambda: os.listdir(f) if os.path.isdir(f) else open(f).read())",
    ),
    Attack(
        "symbolic and hard links",
        "os.symlink(bait['file'], 'a'); os.symlink('/proc/1/root', 'b'); "
        "os.symlink(os.path.join('/proc/self/root', '..', '..'), 'c')\n"
        "for f in ('a', 'b' + bait['file'], 'c' + bait['file'], 'c/etc/passwd'): attempt(f, "
        "lambda: open(f).read())\n"
        "attempt('link', lambda: os.link(sys.executable, 'd'))",
    ),
    Attack(
        "devices",
        "import stat\nattempt('mknod', lambda: os.mknod('disk', 0o600 | stat.S_IFBLK, "
        "os.makedev(254, 0)))\n"
        "attempt('mknod mem', lambda: os.mknod('mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1)))\n"
        "for d in ('mem', 'kmsg', 'vda', 'sda', 'kvm', 'fuse', 'ptmx', 'tty', 'console', 'loop0', "
        "'vsock', 'nvidia0'):\n"
        " attempt(d, lambda: os.open('/dev/' + d, os.O_RDONLY))",
    ),
    Attack(
        "network by address",
        "for a in (('127.0.0.1', bait['port']), ('10.0.0.1', 80), ('169.254.169.254', 80)):\n"
        " attempt(a, lambda: socket.create_connection(a, timeout=1))\n"
        "attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', "
        "('127.0.0.1', bait['port'])))",
    ),
    Attack(
        "network by name",
        "import urllib.request\nfor n in ('localhost', 'example.com', "
        "'metadata.google.internal'):\n"
        " attempt(n, lambda: socket.getaddrinfo(n, 80))\n"
        "attempt('http', lambda: urllib.request.urlopen(f\"http://localhost:{bait['port']}/\", "
        "timeout=1))",
    ),
    Attack(
        "other ways to talk",
        "for name in ('AF_INET6', 'AF_NETLINK', 'AF_PACKET', 'AF_VSOCK', 'AF_ALG', "
        "'AF_BLUETOOTH', 'AF_CAN', 'AF_TIPC'):\n"
        " attempt(name, lambda: socket.socket(getattr(socket, name), socket.SOCK_RAW if name == "
        "'AF_PACKET' else socket.SOCK_STREAM))\n"
        "for a in ('\\0' + bait['abstract'], bait['socket']): attempt(a, lambda: "
        "socket.socket(socket.AF_UNIX).connect(a))",
    ),
    Attack(
        "leaving the working directory",
        "os.chdir('../../../../..')\nprint('LEAK' if os.path.exists(bait['file'].lstrip('/')) "
        "else 'nothing there')\n"
        "for f in ('../x', '/tmp/../x', '/../../x', '/tmp/work/../../x'): attempt(f, lambda: "
        "open(f, 'w'))\n"
        "attempt('chroot', lambda: os.chroot('/tmp'))\n"
        "fd = os.open('/', os.O_DIRECTORY); attempt('openat', lambda: os.open('../etc/passwd', 0, "
        "dir_fd=fd))",
    ),
    Attack(
        "mounts",
        "attempt('tmpfs', lambda: 1 / (1 + libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)))\n"
        "attempt('remount', lambda: 1 / (1 + libc.mount(b'none', b'/usr', None, 32 | 4096, "
        "None)))\n"
        "attempt('umount', lambda: 1 / (1 + libc.umount2(b'/proc', 2)))\n"
        "for n in numbers((155, 41), (428, 428), (430, 430), (432, 432), (429, 429)): attempt(n, "
        "lambda: call(n, b'/', b'/', 0, 0, 0))",
    ),
    Attack(
        "new namespaces",
        "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):\n attempt(hex(flag), lambda: "
        "1 / (1 + libc.unshare(flag)))\n"
        " attempt('clone', lambda: call(numbers((56, 220))[0], flag | 17, 0, 0, 0, 0))\n"
        "attempt('clone3', lambda: call(435, 0, 0))\nattempt('setns', lambda: 1 / (1 + "
        "libc.setns(os.open('/proc/1/ns/net', 0), 0)))\n"
        "attempt('bwrap', lambda: subprocess.run(['/usr/bin/bwrap', '--ro-bind', '/', '/', "
        "'true'], check=True, capture_output=True))",
    ),
    Attack(
        "becoming root",
        "for f in (os.setuid, os.setgid, os.seteuid): attempt(f.__name__, lambda: "
        "f(0))\nattempt('groups', lambda: os.setgroups([0]))\n"
        "attempt('su', lambda: subprocess.run(['/usr/bin/su', '-c', 'true'], check=True, "
        "capture_output=True))\n"
        "attempt('chown', lambda: os.chown('/tmp/work', 0, 0))\nopen('x', 'w').close(); "
        "os.chmod('x', 0o4755)\n"
        "attempt('nice', lambda: os.nice(-5))\nattempt('real time', lambda: "
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))",
    ),
    Attack(
        "raising its own limits",
        "for k in ('AS', 'CPU', 'NPROC', 'NOFILE', 'FSIZE', 'CORE'):\n"
        " k = getattr(resource, 'RLIMIT_' + k); attempt(k, lambda: resource.setrlimit(k, "
        "(resource.RLIM_INFINITY,) * 2))",
    ),
    Attack("open files without end", "attempt('64 more', lambda: [os.dup(1) for _ in range(64)])"),
    Attack(
        "kernel interfaces",
        "for n in numbers((321, 280), (298, 241), (323, 282), (250, 219), (248, 217), (425, 425), "
        "(246, 104), (175, 105), (304, 265),"
        " (169, 142), (227, 112), (135, 92), (103, 116)): attempt(n, lambda: call(n, 0, 0, 0, 0, "
        "0))\n"
        "attempt('x32', lambda: call(0x40000000 | 39))\nattempt('unknown', lambda: call(467, 0, "
        "0, 0))",
    ),
    Attack(
        "typing into a terminal",
        "import fcntl\nfor fd in (0, 1, 2): attempt(fd, lambda: fcntl.ioctl(fd, 0x5412, b'x'))\n"
        "attempt('tty', lambda: os.open('/dev/tty', os.O_RDWR))",
    ),
    Attack(
        "inherited descriptors and environment",
        "fds = {int(f) for f in os.listdir('/proc/self/fd')} - {0, 1, 2}\nattempt('fds', lambda: "
        "[os.fstat(f) for f in fds])\n"
        "print('LEAK' if bait['secret'] in str(os.environ) + open('/proc/self/environ').read() "
        "else 'no secret')",
    ),
    Attack(
        "a daemon that outlives its program",
        "if not os.fork():\n os.setsid()\n if os.fork(): os._exit(0)\n for fd in range(64):\n  "
        "try: os.close(fd)\n  except OSError: pass\n"
        " for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n time.sleep(60)\nprint('done')",
    ),
    Attack(
        "a daemon that keeps the output open",
        "if not os.fork():\n os.setsid(); time.sleep(60)\nprint('done', flush=True); os._exit(0)",
    ),
    Attack(
        "zombies",
        "for _ in range(100):\n try: os.fork() or os._exit(0)\n except OSError: "
        "break\nprint('done')",
    ),
    Attack(
        "becoming another program",
        "os.execv('/bin/sh', ['sh', '-c', 'kill -9 -1; kill -9 1; while :; do :; done'])",
        ("timeout",),
        {"wall_s": 2.0},
    ),
    Attack("a crash", "ctypes.string_at(0)", ("signalled",)),
    Attack(
        "endless recursion",
        "sys.setrecursionlimit(1 << 30)\nf = lambda: f()\nf()",
        ("signalled", "memory", "exited", "timeout"),
        {"wall_s": 3.0},
    ),
    Attack(
        "an ending that looks like a signal from outside",
        "os.kill(os.getpid(), signal.SIGKILL)",
        ("signalled",),
    ),
    Attack("no reader for its input", "os.close(0)\nprint('done')", stdin=bytes(8 << 20)),
    Attack(
        "closing the output and going on",
        "os.close(1); os.close(2)\nwhile True: time.sleep(1)",
        ("timeout",),
        {"wall_s": 2.0},
    ),
    Attack(
        "a source that strains the compiler",
        "x = " + "-" * 200_000 + "1",
        ("exited", "memory", "signalled"),
    ),
]
