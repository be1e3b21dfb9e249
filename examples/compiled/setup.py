"""Builds both modules against the roofstep that is installed; its header is all they need."""

import sys

from Cython.Build import cythonize
from pybind11.setup_helpers import Pybind11Extension
from setuptools import Extension, setup

import roofstep

OPTIMIZE = ["/O2"] if sys.platform == "win32" else ["-O3"]
OPENMP = {"linux": ["-fopenmp"], "win32": ["/openmp"]}.get(sys.platform, [])  # none: one thread

setup(
    py_modules=[],
    ext_modules=[
        *cythonize(
            Extension(
                "word2vec",
                ["word2vec.pyx"],
                extra_compile_args=OPTIMIZE + OPENMP,
                extra_link_args=OPENMP if sys.platform == "linux" else [],
            )
        ),
        Pybind11Extension(
            "factorize",
            ["factorize.cpp"],
            include_dirs=[roofstep.get_include()],
            extra_compile_args=OPTIMIZE,
            cxx_std=17,
        ),
    ],
)
