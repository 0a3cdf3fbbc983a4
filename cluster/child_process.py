"""One child process: its start, its output, its end. Owns: that it never outlives us. Does not: restart it.

On Linux the kernel kills a child whose parent is gone; elsewhere only an orderly end of the parent ends it.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

_CHUNK_BYTES = 65_536
_MAX_LINE_BYTES = 16_384
# Runs between fork and the real program, in a process without our threads: PR_SET_PDEATHSIG survives exec.
_GUARD = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"{sys.argv[2]}: {error.strerror}", flush=True)
    os._exit(127)
"""


def tied(command: Sequence[str]) -> tuple[str, ...]:
    """The command so that, once started by this thread, it dies with it; it must begin with an absolute path."""
    return (sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command)


class ChildProcess:
    """A running child in a process group of its own, so that Ctrl-C in our terminal reaches us alone."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: asyncio.StreamReader, pipe: asyncio.ReadTransport
    ) -> None:
        """Take what `start` made."""
        self._process = process
        self._output = output
        self._pipe = pipe

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Self:
        """Start `command`, an absolute path and its arguments; it dies with the thread that calls this.

        A command that cannot be run ends with code 127 and says why in its output.
        """
        readable, writable = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *tied(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writable,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,  # of our session still: Linux may share a machine between sessions, and does it badly
                env=environment,
            )
        except BaseException:
            os.close(readable)
            raise
        finally:
            os.close(writable)
        output = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(output)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(readable, "rb", 0))
        return cls(process, output, pipe)

    @property
    def pid(self) -> int:
        """Of the child, and of its process group."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[str]:
        """What it and its own children print, until all of them are gone; very long lines come in pieces."""
        rest = b""
        with contextlib.closing(self._pipe):
            while chunk := await self._output.read(_CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_LINE_BYTES:
                    whole, rest = [*whole, rest], b""
                for line in whole:
                    yield line.decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")

    async def wait(self) -> int:
        """Its exit code, or -N for signal N; whatever it started and left behind is killed."""
        code = await self._process.wait()
        self.kill()
        return code

    def terminate(self) -> None:
        """Ask it to end: SIGTERM to the child alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class LogFile:
    """A log of bounded size: the newest `max_bytes`, and as many before them in a second file.

    A line that cannot be written, as on a full disk, is lost, and `say` hears of the first: who logs goes on.
    """

    def __init__(self, path: Path, say: Callable[[str], None], max_bytes: int = 2**24) -> None:
        """Go on where an earlier process stopped."""
        self.path = path
        self._say = say
        self._max_bytes = max_bytes
        self._has_failed = False
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Open the file for appending."""
        self._append(b"")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()

    def write(self, line: str) -> None:
        """Append one line."""
        self._append(line.encode() + b"\n")

    def _append(self, text: bytes) -> None:
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            self._file.write(text)
            if self._file.tell() >= self._max_bytes:
                self._file.close()
                self._file = None
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        except OSError as error:
            if not self._has_failed:
                self._say(f"{self.path}: {error.strerror}; lines of this log are lost")
            self._has_failed = True
