"""Runs pytest many times without importing torch each time: a process that has done so forks for each run.

    python scripts/pytest_server.py serve SOCKET &           # in the folder whose tests are to run
    python scripts/pytest_server.py run SOCKET -x -q tests   # exits as pytest would

Our own package is imported after the fork only, so each run sees the files as they are then. A run that takes longer
than a minute is killed and counts as failed. scripts/mutate.py runs its thousands of test runs this way.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys

LIMIT = 60  # seconds
#: What the tests import, directly or when they first take a gradient, and no run changes.
PRELOADED = ("gymnasium", "hypothesis", "numpy", "pytest", "stable_baselines3", "tokenizers", "torch._dynamo")


def serve(address: str) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # so that no run goes through all that again, which pytest does at its end
    pytest = sys.modules["pytest"]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw") as stream:
                arguments = json.loads(stream.readline())
                process = os.fork()
                if process == 0:
                    signal.alarm(LIMIT)  # ends this process, whatever the mutant does
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    os._exit(int(pytest.main(arguments)))
                _, status = os.waitpid(process, 0)
                stream.write(f"{os.waitstatus_to_exitcode(status)}\n")


def run(address: str, arguments: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rw") as stream:
        client.connect(address)
        stream.write(json.dumps(arguments) + "\n")
        stream.flush()
        return abs(int(stream.readline()))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
