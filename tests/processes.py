"""Commands in processes of their own, without two seconds for the import of PyTorch each time.

A server imports the package once and does nothing else; each command is a fork of it, and runs what the console
script of that name runs: a real process with a number, an exit code, signals, a folder, an environment, arguments
and files for what it prints.  A few tests start the installed scripts themselves, by `subprocess`.

A command can also meet its fate at a place instead of a time: `fate=('os.replace', 3)` kills it with SIGKILL as it
calls `os.replace` for the third time, which is the same place in every run.

    python tests/processes.py NUMBER       is the server; NUMBER is its end of a socket
"""
import atexit
import gc
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path

scripts = Path(sys.executable).parent
largest = 200_000      # bytes of a request


# The side of the tests

class Server:
    "The process from which commands are forked; one for each process that runs tests"
    running = None

    def __init__(self):
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = os.environ | dict(OMP_NUM_THREADS='1')
        self.process = subprocess.Popen([sys.executable, '-P', __file__, str(its.fileno())], env=env,
                                        pass_fds=[its.fileno()], start_new_session=True)
        self.socket = mine
        its.close()
        atexit.register(self.close)

    def close(self):
        self.socket.close()
        self.process.wait()

    @classmethod
    def get(cls):
        if cls.running is None: cls.running = cls()
        return cls.running


class Command:
    "A console script that runs in a fork of the server; used like `subprocess.Popen`"
    def __init__(self,
        *args,         # name of the script, and its arguments
        cwd,           # folder in which it runs
        env=None,      # its environment; None: that of the tests
        file_size=None,# no file may become larger: a full disk
        without=(),    # packages that it does not find, as if they were not installed
        fate=None,     # (place, k) or (place, k, signal): it is sent the signal, SIGKILL if none is given, as it calls `place` for the k-th time
    ):
        self.args, self.returncode = [str(a) for a in args], None
        self.files = [tempfile.TemporaryFile('w+') for _ in range(2)]
        self.status, theirs = socket.socketpair()
        request = dict(args=self.args, cwd=str(cwd), env=dict(os.environ if env is None else env),
                       file_size=file_size, fate=fate, without=[*without])
        fds = [*(f.fileno() for f in self.files), theirs.fileno()]
        socket.send_fds(Server.get().socket, [json.dumps(request).encode()], fds)
        theirs.close()
        self.pid = int(self._line())

    def _line(self):
        "What the server says of the process: first its number, then how it ended"
        text = b''
        while not text.endswith(b'\n'):
            part = self.status.recv(1)
            if not part: raise RuntimeError(f'the server of processes has ended while {self.args} ran')
            text += part
        return text

    def poll(self):
        if self.returncode is None:
            self.status.setblocking(False)
            try: self.status.recv(1, socket.MSG_PEEK)
            except BlockingIOError: return None
            finally: self.status.setblocking(True)
            self.returncode = int(self._line())
        return self.returncode

    def wait(self, timeout=120):
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as ready:
            ready.register(self.status, selectors.EVENT_READ)
            while self.poll() is None:
                left = end - time.monotonic()
                if left <= 0: raise subprocess.TimeoutExpired(self.args, timeout)
                ready.select(left)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=120):
        "What it wrote to standard output and standard error"
        self.wait(timeout)
        return [(f.seek(0), f.read())[1] for f in self.files]


def run(*args, timeout=120, **kw):
    "Run a command to its end"
    return finish(Command(*args, **kw), timeout)


def start_together(n, *args, env=None, fates={}, **kw):
    "The same command in `n` processes that meet each other, as torchrun starts them; `fates` by rank"
    from torch.distributed import TCPStore
    # as torchrun's agent: no port has to be guessed
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    meet = dict(WORLD_SIZE=n, LOCAL_WORLD_SIZE=n, MASTER_ADDR='127.0.0.1', MASTER_PORT=store.port,
                TORCHELASTIC_USE_AGENT_STORE=True)
    own = [meet | dict(RANK=i, LOCAL_RANK=i) for i in range(n)]
    found = [Command(*args, env=(os.environ if env is None else env) | {k: str(v) for k, v in own[i].items()},
                     fate=fates.get(i), **kw) for i in range(n)]
    for p in found:
        p.store = store                                                # it lives as long as they do
    return found


def finish(p, timeout=200):
    "What a command said and how it ended, as `subprocess.run` tells it"
    try: out, err = p.communicate(timeout)
    finally: p.kill()
    return subprocess.CompletedProcess(p.args, p.returncode, out, err)


def run_together(n, *args, fate=None, **kw):
    "`start_together`, to the end"
    return [finish(p) for p in start_together(n, *args, fates=dict.fromkeys(range(n), fate), **kw)]


# The side of the server

def serve(connection):
    "Fork for each request; return the request in the fork, and None when the tests have ended"
    ready, children = selectors.DefaultSelector(), {}
    ready.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is connection:
                message, fds, _, _ = socket.recv_fds(connection, largest, 3)
                if not message:
                    for pid in children.values(): os.kill(pid[0], signal.SIGKILL)
                    return None
                pid = os.fork()
                if pid == 0:
                    connection.close()
                    ready.close()
                    for fd, (_, status) in children.items(): os.close(fd), os.close(status)
                    return json.loads(message), fds
                for fd in fds[:2]: os.close(fd)
                os.write(fds[2], b'%d\n' % pid)
                end = os.pidfd_open(pid)
                children[end] = pid, fds[2]
                ready.register(end, selectors.EVENT_READ)
            else:
                pid, status = children.pop(key.fd)
                ready.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                try: os.write(status, b'%d\n' % code)
                except BrokenPipeError: pass                   # nobody waits for it any more
                os.close(status)


def become(request, fds):
    "Take on folder, environment, files, limits, arguments and fate of the request"
    os.setsid()
    with open(os.devnull) as nothing: os.dup2(nothing.fileno(), 0)
    os.dup2(fds[0], 1), os.dup2(fds[1], 2)
    for fd in fds: os.close(fd)
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(request['env'])
    # whoever runs the tests in the background ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request['file_size']:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request['file_size'],)*2)
    sys.modules.update(dict.fromkeys(request['without']))      # importing them raises ModuleNotFoundError
    name, *args = request['args']
    sys.argv = [str(scripts/name), *args]
    if request['fate']: meet_fate(*request['fate'])


def meet_fate(place, k, number=signal.SIGKILL):
    "Send this process a signal as it calls `place`, e.g. 'os.replace' or 'torch.optim:Adam.step', for the k-th time"
    module, _, names = place.rpartition(':') if ':' in place else place.rpartition('.')
    *owners, name = names.split('.')
    owner, calls = import_module(module), 0
    for part in owners: owner = getattr(owner, part)
    real = getattr(owner, name)
    def counted(*args, **kw):
        nonlocal calls
        calls += 1
        if calls == k: os.kill(os.getpid(), number)
        return real(*args, **kw)
    setattr(owner, name, counted)


def outcome(script):
    "Run it; the exit code, as Python finds it"
    try: runpy.run_path(script, run_name='__main__')
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int): return e.code or 0
        print(e.code, file=sys.stderr)
    except BaseException: traceback.print_exc()
    else: return 0
    return 1


def leave(code):
    "End the process as Python does, except that modules are not cleared: in a copy of a large process this takes 1.6 s"
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code)


# Whatever a command may load late.  The server imports and does nothing else: a process with threads must not be forked
preload = ['dcd_nb.all', 'dcd_nb.cli', 'torch._dynamo', 'torch.distributed', 'torch.utils.flop_counter',
           'torchvision', 'sklearn.datasets', 'scipy.stats',
           'scipy.optimize', 'PIL.Image', 'PIL.PngImagePlugin']

if __name__ == '__main__':
    for name in preload: import_module(name)
    gc.collect()
    # otherwise the garbage collector of each command looks at all of this, and copies it
    gc.freeze()
    task = serve(socket.socket(fileno=int(sys.argv[1])))
    if task is not None:
        become(*task)
        leave(outcome(sys.argv[0]))
