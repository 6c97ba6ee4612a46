"""Disks that are small or slow: a tmpfs in a mount namespace of its own, and an fsync that takes its time."""

import os
import subprocess

from .database import wait_until


class Room:
    """Directories of bounded size, which only processes started with `prefix()` see. Needs root."""

    def __init__(self, sizes_mb):
        """`sizes_mb` maps each directory to its size; they are made."""
        if os.geteuid() != 0:
            raise RuntimeError("a disk of bounded size needs root, to mount it")
        for path in sizes_mb:
            os.makedirs(path)
        mounts = "".join(f"mount -t tmpfs -o size={size}m,mode=0700 tmpfs '{path}' && " for path, size in sizes_mb.items())
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mounts + "echo mounted && exec sleep infinity"], stdout=subprocess.PIPE, text=True
        )
        if self.holder.stdout.readline().strip() != "mounted":
            raise RuntimeError("the disk could not be mounted")

    def prefix(self):
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt"]

    def run(self, *command):
        result = subprocess.run(self.prefix() + list(command), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{command}: {result.stderr}")
        return result.stdout

    def own(self, path, uid, gid):
        self.run("chown", f"{uid}:{gid}", path)

    def resize(self, path, size_mb):
        self.run("mount", "-o", f"remount,size={size_mb}m", path)

    def free_bytes(self, path):
        return int(self.run("df", "--output=avail", "-B1", path).split()[-1])

    def fill(self, path, leave_bytes):
        """A file that leaves so much; how many bytes it takes."""
        size = self.free_bytes(path) - leave_bytes
        self.run("fallocate", "-l", str(size), os.path.join(path, "filler"))
        return size

    def empty(self, path):
        self.run("rm", "-f", os.path.join(path, "filler"))

    def close(self):
        self.holder.kill()
        self.holder.communicate()


SLOW_FSYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Sleeps for as many milliseconds as the file at SLOW_FSYNC says, and notes each time with a byte in the file beside it. */
static void linger(void) {
    char text[16] = {0};
    const char *path = getenv("SLOW_FSYNC");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    long milliseconds = length > 0 ? atol(text) : 0;
    if (milliseconds <= 0) return;
    usleep(milliseconds * 1000);
    const char *count = getenv("SLOW_FSYNC_COUNT");
    file = count ? open(count, O_WRONLY | O_APPEND) : -1;
    if (file < 0) return;
    if (write(file, ".", 1) != 1) abort();
    close(file);
}

int fsync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    linger();
    return real(file);
}

int fdatasync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    linger();
    return real(file);
}
"""


class SlowFsync:
    """A library that PostgreSQL is started with, and a knob."""

    def __init__(self, directory):
        source = os.path.join(directory, "slow_fsync.c")
        library = os.path.join(directory, "slow_fsync.so")
        self.knob = os.path.join(directory, "slow_fsync.ms")
        self.counter = os.path.join(directory, "slow_fsync.count")
        with open(source, "w", encoding="utf-8") as file:
            file.write(SLOW_FSYNC)
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        for path in (self.knob, self.counter):
            with open(path, "w", encoding="utf-8"):
                pass
            os.chmod(path, 0o666)
        self.environment = {"LD_PRELOAD": library, "SLOW_FSYNC": self.knob, "SLOW_FSYNC_COUNT": self.counter}

    def set(self, milliseconds):
        # The old text is never half replaced: a shorter one would be read with the rest of the longer.
        with open(self.knob, "w", encoding="utf-8") as file:
            file.write(str(milliseconds))

    def count(self):
        return os.path.getsize(self.counter)

    def wait_for(self, more):
        wanted = self.count() + more
        wait_until(lambda: self.count() >= wanted, f"{more} more slow fsyncs", 30)
