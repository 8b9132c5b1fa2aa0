"""The system calls that a program in the sandbox may make: a list, as a BPF program; every other is answered ENOSYS.

What the list lacks is the point of it: no fork, thread, socket, ptrace, mount, namespace, key, bpf, io_uring, kill or shared
memory. It holds what CPython needs to start, import its standard library and compute, on one thread.

Source: seccomp(2); the numbers are those of linux/arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import os
import platform
import struct

from corollary.errors import ConfigError
from corollary.rewards.sandbox.base import OTHERS

_ALLOWED = """
    read 0 63             write 1 64            close 3 57            fstat 5 80            lseek 8 62
    mmap 9 222            mprotect 10 226       munmap 11 215         brk 12 214            rt_sigaction 13 134
    rt_sigprocmask 14 135 rt_sigreturn 15 139   pread64 17 67         readv 19 65           writev 20 66
    sched_yield 24 124    mremap 25 216         madvise 28 233        dup 32 23             nanosleep 35 101
    getpid 39 172         execve 59 221         exit 60 93            wait4 61 260          uname 63 160
    fcntl 72 25           getcwd 79 17          gettimeofday 96 169   getrusage 98 165      sysinfo 99 179
    times 100 153         getuid 102 174        getgid 104 176        geteuid 107 175       getegid 108 177
    getppid 110 173       sigaltstack 131 132   gettid 186 178        futex 202 98          sched_getaffinity 204 123
    getdents64 217 61     set_tid_address 218 96 restart_syscall 219 128 clock_gettime 228 113 clock_getres 229 114
    clock_nanosleep 230 115 exit_group 231 94   openat 257 56         newfstatat 262 79     readlinkat 267 78
    faccessat 269 48      pselect6 270 72       ppoll 271 73          set_robust_list 273 99 dup3 292 24
    pipe2 293 59          prlimit64 302 261     getrandom 318 278     statx 332 291         rseq 334 293
    faccessat2 439 439
    open 2 -              stat 4 -              lstat 6 -             poll 7 -              access 21 -
    pipe 22 -             select 23 -           dup2 33 -             readlink 89 -         getrlimit 97 -
    arch_prctl 158 -      time 201 -
"""
_DENIED = {"ioctl": (16, 29, errno.ENOTTY)}  # there is no terminal; Python has another way where it hears that
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def numbers(machine: str) -> dict[str, int]:
    """Name → number of each call that a machine has and the sandbox allows.

    >>> numbers("x86_64")["execve"], numbers("aarch64")["execve"], "open" in numbers("aarch64")
    (59, 221, False)
    """
    words = _ALLOWED.split()
    column = 1 + _MACHINES[machine][0]
    return {words[i]: int(words[i + column]) for i in range(0, len(words), 3) if words[i + column] != "-"}


def program(machine: str) -> bytes:
    """The filter, as an array of `struct sock_filter`.

    A call of another architecture kills; one of the x32 kind, whose number is 2^30 more, is on no list.

    Raises:
        ConfigError: no numbers are known for the machine.
    """
    if machine not in _MACHINES:
        what = f"no list of system calls for {machine}; there is one for {' and '.join(_MACHINES)}"
        raise ConfigError(what, hint=OTHERS["bubblewrap"], code="E0120")
    column, audit = _MACHINES[machine]
    rules = [(number, _ALLOW) for number in numbers(machine).values()]
    rules += [(rule[column], _ERRNO | rule[2]) for rule in _DENIED.values()]
    code = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for number, verdict in rules:
        code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]
    code.append((_RETURN, 0, 0, _ERRNO | errno.ENOSYS))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def descriptor() -> int:
    """A descriptor from which this machine's filter can be read, for `bwrap --seccomp`; the caller closes it."""
    read, write = os.pipe()
    os.write(write, program(platform.machine()))  # about a kilobyte, which a pipe takes at once
    os.close(write)
    return read
