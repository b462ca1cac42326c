"""A file system that can lose its power: an ext4 on a loop device."""

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

# linux/ext4.h: the file system stops, and its journal is not written to the end
EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
REAL_FSYNC = os.fsync  # whatever a test makes of it


class Disk(NamedTuple):
    """A file system of its own. It takes root, and mkfs.ext4."""

    image: Path
    place: Path

    def make(self, size: int) -> None:
        """Make an empty one of so many bytes, which takes them when they are written."""
        self.place.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)

    def mount(self) -> None:
        """Mount it, which replays its journal. Raises CalledProcessError where that is not allowed."""
        subprocess.run(["mount", "-o", "loop", self.image, self.place], check=True)

    def unmount(self) -> bool:
        """Unmount it; whether that could be done."""
        return subprocess.run(["umount", self.place], check=False).returncode == 0

    def remove(self) -> None:
        """Unmount it whatever still has a file of it open, for nothing else could remove the directory; and remove the image."""
        if self.place.is_mount():
            subprocess.run(["umount", "--lazy", self.place], check=True)
        self.image.unlink(missing_ok=True)

    def cut(self) -> None:
        """Lose what is not on the disk, right after the journal was committed, as the kernel does every five seconds."""
        assert self.place.is_mount(), "never the file system of this machine"
        with (self.place / "other").open("wb") as other:
            other.write(b"somebody else's")
            other.flush()
            REAL_FSYNC(other.fileno())
        directory = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(directory)
