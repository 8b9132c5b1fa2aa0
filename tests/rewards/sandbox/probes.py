"""Attempts to get out of a sandbox, as bodies of a function that says 'reached' if the attempt succeeds and raises if not.

`{folder}` is a folder of this machine with a file `secret`, `{pid}` a process of ours, `{port}` and `{socket}` where one listens.
A name that ends in `*` is one that the machine itself may deny: it is not held to succeed where nothing is contained.
"""

from __future__ import annotations

from corollary.rewards.sandbox import Exam

READS = {
    "passwd": "assert open('/etc/passwd').read()",
    "hosts": "assert open('/etc/hosts').read()",
    "a file of ours": "assert open('{folder}/secret').read()",
    "a folder of ours": "import os; assert os.listdir('{folder}')",
    "a file by its folder's descriptor": "import os; os.open('secret', os.O_RDONLY, dir_fd=os.open('{folder}', os.O_RDONLY))",
    "home": "import os; assert os.listdir('{home}')",
    "the project": "import os; assert os.listdir('{project}')",
    "installed packages": "import sys; sys.path.append('{packages}'); import iniconfig",
    "our environment": "assert b'PATH' in open('/proc/{pid}/environ', 'rb').read()",
    "anybody's environment*": "import glob; assert any(b'PATH' in open(p, 'rb').read() for p in glob.glob('/proc/*/environ'))",
    "our memory": "open('/proc/{pid}/mem', 'rb')",
    "our command line": "assert open('/proc/{pid}/cmdline').read()",
    "our descriptors": "import os; assert os.listdir('/proc/{pid}/fd')",
    "our root": "import os; assert os.listdir('/proc/{pid}/root/etc')",
    "who runs": "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 3",
    "mounts": "assert open('/proc/self/mountinfo').read()",
    "the kernel's settings": "import os; assert os.listdir('/proc/sys')",
    "devices": "import os; assert os.listdir('/dev')",
    "sys": "import os; assert os.listdir('/sys')",
    "logs*": "import os; assert os.listdir('/var/log')",
    "an environment of its own*": "import os; assert set(os.environ) - {{'PYTHONHASHSEED', 'LC_ALL', 'LC_CTYPE', 'LD_LIBRARY_PATH', 'PWD'}}",
    "an inherited descriptor*": """
import os
def there(fd):
    try: return os.fstat(fd)
    except OSError: return None
assert sum(there(fd) is not None for fd in range(3, 32)) > 1""",
    "a shell": "import os; assert os.path.exists('/bin/sh')",
    "the other process by its number": "import os; os.kill(os.getppid(), 0); assert open(f'/proc/{{os.getppid()}}/cmdline').read()",
}

WRITES = {
    "a file of ours": "open('{folder}/secret', 'r+')",
    "a new file": "open('{folder}/new', 'x')",
    "a folder": "import os; os.mkdir('{folder}/folder')",
    "a symbolic link": "import os; os.symlink('/etc/passwd', '{folder}/link')",
    "a hard link": "import os; os.link('{folder}/secret', '{folder}/hard')",
    "a name": "import os; os.rename('{folder}/secret', '{folder}/renamed')",
    "a mode": "import os; os.chmod('{folder}/secret', 0o777)",
    "a date": "import os; os.utime('{folder}/secret', (0, 0))",
    "a removal": "import os; os.unlink('{folder}/secret')",
    "a length": "import os; os.truncate('{folder}/secret', 0)",
    "a pipe with a name": "import os; os.mkfifo('{folder}/pipe')",
    "a device*": "import os, stat; os.mknod('/tmp/device', stat.S_IFBLK | 0o600, os.makedev(8, 0))",
    "the temporary folder*": "import tempfile; tempfile.TemporaryFile()",
    "shared memory*": "open('/dev/shm/x', 'x')",
    "its working folder*": "open('x', 'x')",
    "the root*": "import os; os.mkdir('/x')",
    "the standard library*": "import os; open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'x')",
    "its interpreter*": "import sys; open(sys.executable, 'r+b')",
    "by way of /proc*": "open('/proc/self/root/tmp/x', 'x')",
    "by way of a descriptor*": "import os; os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x')",
    "memory that is a file*": "import os; os.write(os.memfd_create('x'), b'x')",
}

NETWORK = {
    "TCP": "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    "TCP by connect_ex": "import socket; assert not socket.socket().connect_ex(('127.0.0.1', {port}))",
    "HTTP": "import http.client; http.client.HTTPConnection('127.0.0.1', {port}, timeout=1).connect()",
    "UDP": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "listening": "import socket; socket.create_server(('127.0.0.1', 0))",
    "a socket with a path": "import socket; socket.socket(socket.AF_UNIX).connect('{socket}')",
    "a socket with a name": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{abstract}')",
    "a pair of sockets": "import socket; socket.socketpair()",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "raw packets*": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "vsock*": "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "kernel crypto*": "import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "a name's address*": "import socket; socket.getaddrinfo('localhost', 80)",
}

BOMBS = {
    "spin": "while True: pass",
    "spin that catches all": """
while True:
    try:
        while True: pass
    except BaseException: pass""",
    "spin deaf to signals": """
import signal
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass""",
    "sleep": "import time; time.sleep(1000)",
    "pause": "import signal; signal.pause(); 1 / 0",
    "a regular expression": "import re; re.match('(a+)+$', 'a' * 60 + 'b'); 1 / 0",
    "a power": "9 ** 9 ** 9; 1 / 0",
    "text of a number": "import sys; sys.set_int_max_str_digits(0); str(7 ** 10 ** 8); 1 / 0",
    "recursion": "g = lambda: g(); g()",
    "recursion without end": "import sys; sys.setrecursionlimit(10 ** 9); g = lambda: g(); g()",
    "a list": "x = [0] * 10 ** 10; 1 / 0",
    "a growing list": "x = []\nwhile True: x += [x] * 10 ** 6",
    "text": "x = 'a'\nwhile True: x += x",
    "bytes": "x = bytearray(10 ** 12); 1 / 0",
    "a mapping of memory": "import mmap; x = [mmap.mmap(-1, 2 ** 30) for _ in range(10 ** 4)]; 1 / 0",
    "a file in memory": """
import os
memory = os.memfd_create('x')
while True: os.write(memory, bytes(2 ** 20))""",
    "full pipes": """
import os
while True: os.write(os.pipe()[1], bytes(2 ** 16))""",
    "forks": "import os\nwhile True: os.fork()",
    "forks that allocate": "import os\nwhile True: os.fork(); x = bytearray(10 ** 8)",
    "threads": """
import threading
while True: threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()""",
    "small threads": """
import _thread
_thread.stack_size(32768)
while True: _thread.start_new_thread(lambda: [None for _ in iter(int, 1)], ())""",
    "processes": "import subprocess\nwhile True: subprocess.Popen(['/usr/bin/python3', '-c', 'while True: pass'])",
    "a pool": "import multiprocessing; multiprocessing.Pool(50).map(abs, range(10 ** 9)); 1 / 0",
    "a daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
    os._exit(0)
while True: pass""",
    "a zombie": "import os\nwhile True:\n    if os.fork() == 0: os._exit(0)",
    "another program": "import os, sys; os.execv(sys.executable, ['x', '-c', 'while True: pass'])",
    "descriptors": "x = []\nwhile True: x.append(open('/dev/null')) if x is None else x.append(open(__import__('os').__file__))",
    "files": "i = 0\nwhile True: open(f'/tmp/{{i}}', 'x'); i += 1",
    "a full disk": "f = open('/tmp/x', 'w')\nwhile True: f.write('a' * 10 ** 6)",
    "output": "while True: print('a' * 10 ** 6)",
    "output to a descriptor": "import os\nwhile True: os.write(1, b'a' * 10 ** 6)",
    "frames that nobody asked for": """
import os
while True:
    for fd in range(3, 32):
        try: os.write(fd, b'\\0\\0\\0\\1x' * 10000)
        except OSError: pass""",
    "input": "input(); 1 / 0",
    "a huge answer": "return 'a' * 10 ** 8",
    "an answer without end": "return iter(int, 1)",
    "a deep answer": "x = []\nfor _ in range(10 ** 5): x = [x]\nreturn x",
    "an answer in a circle": "x = []; x.append(x); return x",
    "an error with a huge text": "raise ValueError('a' * 10 ** 8)",
    "an error whose text has no end": """
class E(Exception):
    def __str__(self):
        while True: pass
raise E""",
    "higher limits": """
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
    resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
x = bytearray(2 ** 34); 1 / 0""",
    "a crash": "import ctypes; ctypes.string_at(0)",
}

SYSCALLS = {  # numbers of x86_64; arguments that would do nothing, or little, if they were let through
    "kill": (62, 1, 0), "tkill": (200, 1, 0), "tgkill": (234, 1, 1, 0), "rt_sigqueueinfo": (129, 1, 0, 0),
    "pidfd_open": (434, 1, 0), "pidfd_send_signal": (424, 0, 0, 0, 0), "pidfd_getfd": (438, 0, 0, 0),
    "ptrace": (101, 0, 0, 0, 0), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0), "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0), "setpriority": (141, 0, 0, 0), "sched_setaffinity": (203, 0, 8, 0),
    "fork": (57,), "vfork": (58,), "clone": (56, 0x10000000, 0, 0, 0, 0), "clone3": (435, 0, 0), "unshare": (272, 0x10000000),
    "setns": (308, 0, 0), "mount": (165, 0, 0, 0, 0, 0), "umount2": (166, 0, 0), "pivot_root": (155, 0, 0), "chroot": (161, 0),
    "open_tree": (428, -100, 0, 0), "move_mount": (429, 0, 0, 0, 0, 0), "fsopen": (430, 0, 0), "mount_setattr": (442, 0, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0), "name_to_handle_at": (303, 0, 0, 0, 0, 0), "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0), "userfaultfd": (323, 0), "io_uring_setup": (425, 1, 0), "io_setup": (206, 1, 0),
    "keyctl": (250, 0, -3, 0, 0, 0), "add_key": (248, 0, 0, 0, 0, -3), "request_key": (249, 0, 0, 0, -3), "personality": (135, -1),
    "kexec_load": (246, 0, 0, 0, 0), "init_module": (175, 0, 0, 0), "finit_module": (313, 0, 0, 0), "delete_module": (176, 0, 0),
    "reboot": (169, 0, 0, 0, 0), "swapon": (167, 0, 0), "acct": (163, 0), "settimeofday": (164, 0, 0), "sethostname": (170, 0, 0),
    "iopl": (172, 0), "quotactl": (179, 0, 0, 0, 0), "fanotify_init": (300, 0, 0), "memfd_create": (319, 0, 0),
    "memfd_secret": (447, 0), "shmget": (29, 0, 4096, 0o1600), "msgget": (68, 0, 0o1600), "semget": (64, 0, 1, 0o1600),
    "mq_open": (240, 0, 0, 0, 0), "socket": (41, 1, 1, 0), "socketpair": (53, 1, 1, 0, 0), "prctl": (157, 38, 1, 0, 0, 0),
    "seccomp": (317, 2, 0, 0), "landlock": (444, 0, 0, 1), "setuid": (105, 65534), "capset": (126, 0, 0), "modify_ldt": (154, 0, 0, 0),
    "vmsplice": (278, 0, 0, 0, 0), "splice": (275, 0, 0, 0, 0, 0, 0), "x32 getpid": (0x40000000 + 39,),
}  # fmt: skip

UNKNOWN = Exam(entry_point="f", tests=("assert f(0) == (-1, 38), f(0)",))
"""Holds if the kernel says that it has no such call: 38 is ENOSYS."""


def calling(name: str) -> str:
    """A program that makes a system call."""
    return f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f(_):
    result = libc.syscall{SYSCALLS[name]}
    return result, ctypes.get_errno()
"""


def exploding(name: str) -> str:
    """A program that holds a bomb, and answers 7 should it fizzle."""
    body = "\n".join("    " + line for line in BOMBS[name].format().strip().splitlines())
    return f"def f(_):\n{body}\n    return 7\n"
