"""What `warm` starts is what `subprocess` would start: streams, signals, exit and surroundings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import warm

STARTS = pytest.mark.parametrize("start", [subprocess.Popen, warm.Popen], ids=["plain", "warm"])


def told(start: Any, code: str, *arguments: str, given: bytes = b"", **how: Any) -> tuple[int, bytes, bytes]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with start([sys.executable, "-c", code, *arguments], **pipes | how) as process:
        out, err = process.communicate(given, timeout=60)
        return process.returncode, out, err


@STARTS
def test_streams_arguments_folder_environment_and_exit_are_those_that_are_asked_for(start: Any, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "print(sys.argv, Path.cwd(), os.environ['ASKED'], os.getpgid(0) == os.getpid(), sys.stdin.read(), flush=True)\n"
        "print('err', file=sys.stderr); sys.exit(7)"
    )
    how = {"cwd": tmp_path, "env": {**os.environ, "ASKED": "yes"}, "start_new_session": True}
    code_out, out, err = told(start, code, "a", "b c", given=b"given", **how)
    assert (code_out, out.decode(), err) == (7, f"['-c', 'a', 'b c'] {tmp_path} yes True given\n", b"err\n")


@STARTS
def test_a_traceback_and_a_signal_end_it_as_ever(start: Any) -> None:
    code, _, err = told(start, "raise ValueError('why')")
    assert code == 1 and err.endswith(b"ValueError: why\n")
    for number, ends in ((signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -9)):
        line = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
        with start(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            assert process.stdout.read(1) == b"1"
            process.send_signal(number)
            assert process.wait(60) == ends


@STARTS
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_what_cannot_be_written_at_the_end_is_an_exit_of_its_own(start: Any) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = told(start, "print(1)", stdout=full)
    assert code in (1, 120) and b"No space left" in err


@pytest.mark.skipif(sys.platform != "linux", reason="a plain start elsewhere")
def test_it_has_loaded_torch_and_nothing_of_what_is_tested_and_is_our_own_child() -> None:
    code = (
        "import os, sys\n"
        "print('torch' in sys.modules, any(name.startswith('pconv_cli') for name in sys.modules), os.getppid())"
    )
    assert told(warm.Popen, code)[1].decode() == f"True False {os.getpid()}\n"
