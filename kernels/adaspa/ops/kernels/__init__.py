"""The operations as Triton kernels, one a file, each the equal of the reference in `adaspa.ops`.

Imported only when a kernel is launched, so that the library works without Triton.
"""
