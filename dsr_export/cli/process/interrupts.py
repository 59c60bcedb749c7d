"""SIGINT and SIGTERM end the command line from within their handler.

A KeyboardInterrupt would have to travel through whatever code it meets, and much of that stops it: `except:` in a
library, `__del__`, a callback out of C++, which ends the process with SIGABRT. Nothing can stop an exit.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from dsr_export.cli.exit_codes import INTERRUPTED
from dsr_export.storage.leftovers import undo_all

SAID = b"error: interrupted; nothing half-written is left\nhint: run the same command again to resume from the cache\n"
GRACE = 1.0  # seconds in which a call into C++ may return, before a thread ends the process without it
PATIENCE = 5.0  # seconds that undoing may take
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"
_ending = threading.Lock()


def end_on_signals() -> None:
    """From now on, SIGINT and SIGTERM end this process within seconds, whatever it is doing.

    That holds where a shell had SIGINT ignored, as it does for commands in the background: who sends it means it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="interrupts", daemon=True).start()
    for number in _SIGNALS:
        signal.signal(number, _handle)
        _kill_on_the_second(number)
    atexit.register(_ignore)


def _ignore() -> None:
    """Also while the interpreter ends, after all work: it would put the system's action back, and the exit code of a
    command that is done would be lost to a late signal."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:
    _ignore()  # what is undone now should be undone whole; `_watch` sees to it that this ends
    _end()


def _watch(reader: int) -> None:
    """Ends the process where its main thread is somewhere in C++ and cannot; the system itself writes to `reader`."""
    while os.read(reader, 1)[0] not in _SIGNALS:
        pass
    time.sleep(GRACE)
    if _ending.acquire(blocking=False):
        threading.Timer(PATIENCE, os._exit, (INTERRUPTED,)).start()
        _undo_and_exit()
    time.sleep(PATIENCE)
    os._exit(INTERRUPTED)


def _end() -> None:
    if not _ending.acquire(blocking=False):
        time.sleep(2 * PATIENCE)  # the other thread is at it, and no longer than that
    _undo_and_exit()


def _undo_and_exit() -> NoReturn:
    undo_all()
    with suppress(OSError):  # not print: the handler may have met another print half-way
        os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + SAID)
    os._exit(INTERRUPTED)


class _Action(ctypes.Structure):
    """`struct sigaction` of Linux's C libraries on 64-bit machines."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def _kill_on_the_second(number: int) -> None:
    """After the first signal the system's own action is back: the second needs neither Python nor its lock.

    Elsewhere than on Linux a second signal is as good as the first.
    """
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return
    libc, action = ctypes.CDLL(None, use_errno=True), _Action()
    if libc.sigaction(number, None, ctypes.byref(action)) == 0:
        action.flags |= ctypes.c_int(0x80000000).value  # SA_RESETHAND
        libc.sigaction(number, ctypes.byref(action), None)
