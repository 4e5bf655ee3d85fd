"""Commands and scripts in processes of their own that need not import anything first: forks of the test process.

Starting Python and importing torch and transformers takes ten times as long as most of what is tested so.
"""

import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import datasets
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from mixcd import __main__ as mixcd_main

COMMAND = "mixcd"


def run_forked(program, *arguments, **settings):
    """Run a script, or `mixcd` itself, with arguments; return what `subprocess.run` would."""
    with Forked(program, *arguments, **settings) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess([program, *arguments], process.returncode, out, err)


class Forked:
    """A running script, or `mixcd` itself; used as a `subprocess.Popen` is, of which it has what tests need.

    At the end of a `with` block it is killed if it still runs.
    """

    def __init__(self, program, *arguments, cwd=None, env=None, start_new_session=False):
        self._arguments = [str(program), *map(str, arguments)]
        self._out, self._err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            if start_new_session:
                os.setsid()
            _run(self._arguments, self._out.fileno(), self._err.fileno(), cwd, env or {})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            self.communicate()

    def poll(self):
        """The exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number):
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout=300):
        """Wait for its end; return its output and its errors."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f"{self._arguments} still runs after {timeout} s: {_read(self._err)}"
            time.sleep(0.005)
        return _read(self._out), _read(self._err)


def _read(file):
    file.seek(0)
    return file.read()


def _run(arguments, out, err, cwd, env):
    """Be that process: nothing of the test's own is left but what was imported."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        logging.getLogger().handlers.clear()
        warnings.simplefilter("default")
        os.environ.update(env)
        if "HF_DATASETS_CACHE" in env:  # which datasets read when it was imported
            datasets.config.HF_DATASETS_CACHE = Path(env["HF_DATASETS_CACHE"])
        os.chdir(cwd or ".")
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        PartialState._reset_state()
        sys.argv = arguments
        if arguments[0] == COMMAND:
            mixcd_main.main()
        else:
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
