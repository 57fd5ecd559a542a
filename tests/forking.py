"""Scripts in processes of their own that need not import torch first, which takes seconds: a process that has
imported all forks them. They are children of the process that asks, and end as Python does but for its modules. What
they start in their turn can be forked as well."""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = (  # by one script or another; nothing here starts a thread, which a fork would lose
    *("av", "cv2", "yt_dlp", "matplotlib.pyplot", "scipy.stats", "models.vision", "recognition.films.shots"),
    *("recognition.training.session", "recognition.training.provenance", "recognition.training.episode_task"),
    *("recognition.features.extraction", "recognition.evaluation.one_run", "recognition.evaluation.report"),
    *("backbones.classification_task", "backbones.pretraining_task", "backbones.loader"),
)
PR_SET_CHILD_SUBREAPER = 36  # of Linux's <sys/prctl.h>


class Forked(subprocess.Popen):
    """As subprocess.Popen, with the words of a script such as train.py, of a command such as recognition.sweep, or
    of `-c` and some code. With `forks` the Python that the script starts, by subprocess too, is forked likewise."""

    def __init__(self, args, *, forks: bool = False, **options):
        self.forks = forks
        super().__init__(args, **options)

    def _execute_child(self, args, *rest):  # the rest in the order that subprocess has had since Python 3.9
        cwd, env, _, _, _, *pipes = rest[4:15]
        streams = [own if own >= 0 else usual for usual, own in enumerate((pipes[0], pipes[3], pipes[5]))]
        environment = dict(env or os.environ)
        if not str(args[0]).endswith(".py"):
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        request = {"words": [*map(str, args)], "cwd": str(cwd or Path.cwd()), "env": environment, "session": rest[20]}
        request["forks"] = getattr(self, "forks", False)
        libc, (server, _) = ctypes.CDLL(None), _server()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the server's own child leaves behind becomes ours
        try:
            socket.send_fds(server, [json.dumps(request).encode()], streams)
            self.pid = int(server.recv(32))
        finally:
            libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        self._child_created = True
        self._close_pipe_fds(*pipes)


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen]:
    """What leads to the process that forks, and that process, which ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words, environment = [sys.executable, __file__, str(its.fileno())], {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, pass_fds=[its.fileno()], env=environment, stdin=subprocess.DEVNULL)
    its.close()
    return ours, server


@contextlib.contextmanager
def python_forked() -> Iterator[None]:
    """Within the block Python is forked where this process starts it by subprocess."""
    start_anew = subprocess.Popen._execute_child
    _server()  # is itself started anew

    def start(self, args, *rest):
        if isinstance(args, str) or args[0] != sys.executable:
            return start_anew(self, args, *rest)
        name, *words = args[1 + (args[1] == "-u") :]
        if name == "-m":
            name, *words = words
        return Forked._execute_child(self, [Path(name).absolute() if name.endswith(".py") else name, *words], *rest)

    subprocess.Popen._execute_child = start
    try:
        yield
    finally:
        subprocess.Popen._execute_child = start_anew


def _next_script(asked: socket.socket) -> dict:
    """Answer requests; returns in each process that is forked, with what it is to do."""
    while True:
        message, streams, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not message:
            os._exit(0)
        read, write = os.pipe()
        if (between := os.fork()) == 0:
            number = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == number:  # until it is the child of the process that asks
                time.sleep(0.0001)
            script = json.loads(message)
            if script["session"]:
                os.setsid()
            os.write(write, str(os.getpid()).encode())
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, max(read, write, asked.fileno(), *streams) + 1)
            return script
        os.waitpid(between, 0)
        asked.send(os.read(read, 32))
        for file in (read, write, *streams):
            os.close(file)


def _fork_server(script: dict) -> dict:
    """Have a child of this process fork what the script starts; returns in each fork with what it is to do."""
    global _server
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        its.close()
        _server = lambda: (ours, None)  # noqa: E731
        return script
    ours.close()
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)  # nobody is to wait for what this holds
    return _next_script(its)


def _be(script: dict) -> None:
    """Do what `python script.py` or `python -m room.command` does."""
    os.chdir(script["cwd"])
    os.environ.clear()
    os.environ.update(script["env"])
    sys.stdin = os.fdopen(0, "r", closefd=False)  # Python's own know what sort of files they were for the server
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stdout.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")  # as Python does at its start
    name, *sys.argv[1:] = script["words"]
    if name == "-c":
        sys.path[0], code, sys.argv[:] = "", sys.argv[1], ["-c", *sys.argv[2:]]
        exec(code, {"__name__": "__main__"})
    elif name.endswith(".py"):
        sys.argv[0], sys.path[0] = str(ROOT / name), str((ROOT / name).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.path[0] = script["cwd"]
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def _status_of(script: dict) -> int:
    try:
        _be(script)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else print(end, file=sys.stderr) or 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # a collection would write to every page, and so copy it for each process
    script = _next_script(socket.socket(fileno=int(sys.argv[1])))
    if script["forks"]:
        script = _fork_server(script)
    with python_forked() if script["forks"] else contextlib.nullcontext():
        status = _status_of(script)
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
    os._exit(status)  # taking every module apart would copy all pages too: seconds
