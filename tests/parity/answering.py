"""The peers' side of the pipe: jobs come in as lines of JSON, answers go out the same way."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Patched = Callable[[dict[str, Any]], list[Tensor]]
"""A job to the logits ``[example, position, vocab]`` of every cell."""


def serve(patched: Patched) -> None:
    """Answer until the input ends. What a peer prints goes to the standard error, so that it cannot spoil an answer."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        try:
            job = json.loads(line)
            with torch.no_grad():
                answer = {"values": [logit_diff(logits, job) for logits in patched(job)]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def logit_diff(logits: Tensor, job: dict[str, Any]) -> list[float]:
    """The right answer's logit minus the wrong one's, after the last token, an example at a time."""
    rows = range(len(logits))
    return (logits[rows, -1, job["answers"]] - logits[rows, -1, job["wrong"]]).tolist()
