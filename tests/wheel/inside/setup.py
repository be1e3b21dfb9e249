"""Builds the consumers in C99 and Cython of every function, in place."""

import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import calls
import roofstep

Path("in_c.c").write_text(calls.in_c())
Path("in_cython.pyx").write_text(calls.in_cython())
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
PYTHON = ["-isystem", sysconfig.get_path("include")]  # warnings of its headers are not ours

setup(
    name="consumers",
    py_modules=[],
    ext_modules=[
        Extension(
            "in_c",
            ["in_c.c"],
            include_dirs=[roofstep.get_include()],
            extra_compile_args=STRICT + PYTHON,
        ),
        *cythonize("in_cython.pyx", quiet=True),
    ],
)
