"""Triton kernels, each beside a plain torch reference of the same signature; imported as ``interp.kernels``.

None yet: a kernel comes in when a measurement on a GPU shows that it beats ``torch.compile`` of its reference.
"""
