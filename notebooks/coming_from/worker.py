"""One library's ten functions, run in a process of its own: ``python -m coming_from.worker in_pyvene FOLDER``.

Importing a peer changes the process that it is imported into: nnsight adds ``save`` to every object and replaces
``Tensor.backward``, pyvene imports nnsight, TransformerLens rewires the model. The numbers come back in
``FOLDER/in_pyvene.npz``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from coming_from import question


def main(name: str, folder: str) -> None:
    torch.set_num_threads(1)
    peer, q, found = importlib.import_module(f"coming_from.{name}"), question.load(folder), {}
    for task in question.TASKS:
        model = peer.load(folder)  # a new one each time: some of the libraries leave hooks or changed weights behind
        found[task] = getattr(peer, task)(model, q).detach().numpy()
    np.savez(Path(folder, f"{name}.npz"), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
