"""What the Triton modules share: importing triton for the chosen device, element types, tile sizes. Imported by them alone.

``INTERPRETED`` says whether Triton's interpreter runs the kernels, which is settled when triton is first imported.
"""

from __future__ import annotations

import os

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from interp.errors import KernelError

INTERPRETED = isinstance(tl.sum, InterpretedFunction)

if (os.environ.get("TRITON_INTERPRET") == "1") != INTERPRETED:
    raise KernelError(
        f"triton was imported {'with' if INTERPRETED else 'without'} its interpreter, and TRITON_INTERPRET was changed since; "
        "set it before anything imports triton"
    )

ELEMENT = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def element(dtype: torch.dtype) -> tl.dtype:
    """Triton's name of a dtype.

    Raises:
        KernelError: not a floating type of 16, 32 or 64 bits.
    """
    if dtype not in ELEMENT:
        raise KernelError(f"Triton kernels take float64, float32, float16 or bfloat16, got {dtype}")
    return ELEMENT[dtype]


def factors(wide: torch.dtype, *dtypes: torch.dtype) -> tl.dtype:
    """The type in which factors enter a product of tiles whose sums are ``wide``.

    16-bit factors of one type stay as they are, since their products are exact in float32. Triton's interpreter multiplies
    bfloat16 bit patterns as integers (3.7.1), so there they are widened first.
    """
    narrow = wide == torch.float32 and dtypes[0].itemsize == 2 and len(set(dtypes)) == 1
    return element(dtypes[0] if narrow and not INTERPRETED else wide)
