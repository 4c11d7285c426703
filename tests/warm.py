"""Starts `python -m pconv_cli` and the like at once: forked from a process that has loaded torch already.

`run` and `Popen` are those of `subprocess`. What they start is a child of the test in every respect, streams, signals
and exit included; it has loaded nothing of `pconv_cli`. To load torch takes a process seconds, and there are many.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import types
from functools import cache
from pathlib import Path
from typing import Any

LOADED = ("torch", "safetensors.torch", "rasterio", "PIL.Image", "rich.progress", "typer.main")
SUBREAPER = 36
"""Of `prctl`: whether orphans below a process become its own children, so that it can wait for them."""


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`; what is no plain start of Python with `-m` or `-c` on Linux is left to that."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, *rest: Any) -> None:
        pass_fds, cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[:12]
        env = dict(os.environ if env is None else env)
        alike = all(env.get(name) == os.environ.get(name) for name in {*env, *os.environ} if name.startswith("PYTHON"))
        plain = sys.platform == "linux" and alike and not (shell or preexec_fn or executable or pass_fds)
        if not plain or list(args[:1]) != [sys.executable] or args[1] not in ("-m", "-c"):
            super()._execute_child(args, executable, preexec_fn, close_fds, *rest)  # type: ignore[misc]
            return
        umask = os.umask(0)
        os.umask(umask)
        request = {
            "args": [os.fspath(part) for part in args[1:]], "cwd": os.fspath(cwd or Path.cwd()), "env": env,
            "umask": umask, "session": bool(rest[17]),
        }  # fmt: skip
        streams = [given if given != -1 else number for number, given in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _forked(json.dumps(request), streams)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(args: list[str], *, timeout: float | None = None, input: Any = None, **how: Any) -> Any:
    """`subprocess.run`, as far as it is used here: whoever calls it looks at the exit code."""
    if how.pop("capture_output", False):
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        how["stdin"] = subprocess.PIPE
    with Popen(args, **how) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def _forked(request: str, streams: list[int]) -> int:
    """Have a child forked; its pid."""
    loaded, prctl = _loaded(), ctypes.CDLL(None).prctl
    prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(loaded, [request.encode() + b"\n"], streams)
        return int(loaded.recv(32))
    finally:
        prctl(SUBREAPER, 0, 0, 0, 0)


@cache
def _loaded() -> socket.socket:
    """The way to a process that has loaded torch, and ends with this one."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns in what has been forked, with the request; None at the end."""
    while True:
        head, streams, _, _ = socket.recv_fds(requests, 1 << 16, 3)
        if not head:
            return None
        while not head.endswith(b"\n"):
            head += requests.recv(1 << 16)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            parent = os.getpid()
            child = os.fork()
            if child:
                os.write(writer, str(child).encode())
                os._exit(0)  # the test adopts its child
            while os.getppid() == parent:
                time.sleep(0.0005)
            requests.close()
            os.close(reader)
            os.close(writer)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            return dict(json.loads(head))
        os.close(writer)
        os.waitpid(between, 0)
        requests.send(os.read(reader, 32))
        for number in (reader, *streams):
            os.close(number)


def _reopen() -> None:
    """Look at standard streams anew: what kind of file each is, it knows from its beginning."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        unbuffered = number > 0 and bool(os.environ.get("PYTHONUNBUFFERED"))
        stream = open(number, "wb" if number else "rb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
        lines = number == 2 or stream.isatty()
        new = io.TextIOWrapper(stream, old.encoding, old.errors, None, lines, write_through=unbuffered)  # type: ignore[arg-type]
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _become(request: dict[str, Any]) -> None:
    """Be what was asked for, to the end."""
    if request["session"]:
        os.setsid()
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    _reopen()
    kind, what, *arguments = request["args"]
    sys.path[0] = request["cwd"] if kind == "-m" else ""
    sys.argv = [what if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of whoever stops the tests; they end it
    wanted = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if wanted is not None:
        _become(wanted)
