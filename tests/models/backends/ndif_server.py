"""What the NDIF service does with a request, in a process that does not have `interp`.

A request comes in as a line of JSON, which folder's model it is for and how many bytes follow, and goes out as a length (8
bytes) and so many bytes. The request is nnsight's own bytes, run by nnsight's own tracer; the answer is nnsight's own response
with the saved values, as the service packs them.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from functools import cache
from typing import Any


class _Absent:
    """The service knows nnsight and torch, not this package nor its tests."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("interp", "tiny", "jaxtyping"):
            raise ModuleNotFoundError(f"the service has no module named {name!r}")


sys.meta_path.insert(0, _Absent())

import torch  # noqa: E402
import zstandard  # noqa: E402
from nnsight import TransformersModel  # noqa: E402
from nnsight.schema.request import RequestModel  # noqa: E402
from nnsight.schema.response import ResponseModel, Status  # noqa: E402
from nnsight.tracing import tracer as tracing  # noqa: E402


def ran(model: Any, blob: bytes) -> dict[str, Any]:
    """The values that a request saves."""
    tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compress=True)
    tracing.inc()
    try:
        tracer.execute(tracer.info.code)
        return {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in tracing._saves()}
    finally:
        tracing.dec()


def answered(model: Any, blob: bytes) -> ResponseModel:
    try:
        file = io.BytesIO()
        with torch.no_grad():
            torch.save(ran(model, blob), file)
        return ResponseModel(id="1", status=Status.COMPLETED, data=zstandard.ZstdCompressor().compress(file.getvalue()))
    except Exception:
        return ResponseModel(id="1", status=Status.ERROR, description=traceback.format_exc())


@cache
def loaded(folder: str) -> Any:
    return TransformersModel(folder, task="text-generation", dispatch=True, dtype=torch.float32)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        answer = answered(loaded(request["folder"]), sys.stdin.buffer.read(request["bytes"])).pickle()
        answers.write(len(answer).to_bytes(8, "big") + answer)
        answers.flush()


if __name__ == "__main__":
    main()
