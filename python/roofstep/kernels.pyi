# Types of the compiled door as Python sees it; Cython reads kernels.pxd.

version: int
__pyx_capi__: dict[str, object]  # what cimport takes: a capsule for each function
__test__: dict[str, str]  # Cython makes one in every module

def address() -> int: ...
