"""A contestant in a process of its own.

nnsight gives every object of a process a ``save`` method and replaces ``Tensor.backward``, and pyvene imports nnsight: neither
may share a process with what is compared with it. A worker lives as long as the benchmark, questions and answers go through a
pipe, and the clock runs inside the worker, so that neither the pipe nor the start of the process counts.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from contestants.timed import Run


class Worker:
    """Has the methods of ``contestants.<module>.<name>(*args)``, which lives elsewhere.

    Raises:
        RuntimeError: with the worker's traceback, where the contestant fails.
    """

    def __init__(self, module: str, name: str, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, module, name, args), daemon=True)
        self.process.start()
        theirs.close()
        self._receive()  # it is ready

    def run(self, question: Any, count: bool = False) -> Run:
        return self.call("run", question, count)

    def call(self, method: str, *args: Any) -> Any:
        self.pipe.send((method, args))
        return self._receive()

    def close(self) -> None:
        self.pipe.close()
        self.process.join()

    def _receive(self) -> Any:
        try:
            failed, answer = self.pipe.recv()
        except EOFError:
            raise RuntimeError("a worker ended without an answer; its own words are above") from None
        if failed:
            raise RuntimeError(f"a contestant failed in its worker:\n{answer}")
        return answer


def _serve(pipe: Connection, module: str, name: str, args: tuple[Any, ...]) -> None:
    """Answer until the pipe is closed. What a library prints goes to the standard error."""
    import torch

    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    contestant = None
    request: tuple[str, tuple[Any, ...]] | None = None
    while True:
        try:
            if contestant is None:
                contestant, answer = getattr(importlib.import_module(f"contestants.{module}"), name)(*args), None
            elif request is not None:
                answer = getattr(contestant, request[0])(*request[1])
            pipe.send((False, answer))
        except Exception:
            pipe.send((True, traceback.format_exc()))
        try:
            request = pipe.recv()
        except EOFError:
            return
