"""What roofstep.h declares, consumers of all of it in C and Cython, and every way to call it.

Runs in an environment with the wheel; setup.py beside it builds the consumers.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import roofstep

HEADER = Path(roofstep.get_include(), "roofstep", "roofstep.h")


class Function(NamedTuple):
    """A member of the table, its arguments as their names and types."""

    result: str
    arguments: dict[str, str]

    @property
    def pointers(self) -> list[str]:
        return [name for name, kind in self.arguments.items() if kind.endswith("*")]

    @property
    def states(self) -> list[str]:
        return [name for name in self.pointers if name not in ("param", "grad", "rows", "x")]


def declared() -> dict[str, Function]:
    """All functions of the header."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    assert text.count("(*") == len(re.findall(r"\w+ \(\*\w+\)\([^()]+\);", text))
    found = {}
    for result, name, arguments in re.findall(r"(\w+) \(\*(\w+)\)\(([^()]+)\);", text):
        pairs = (argument.split() for argument in arguments.split(","))
        found[name] = Function(result, {words[-1]: " ".join(words[:-1]) for words in pairs})
    return found


FUNCTIONS = declared()
RULES = [name for name in FUNCTIONS if not name.startswith("sum_squares")]

# How Python's numbers come to C; a pointer comes as an address.
FORMATS = {
    "int": ("int", "i"),
    "double": ("double", "d"),
    "ptrdiff_t": ("Py_ssize_t", "n"),
    "int64_t": ("long long", "L"),
}


# Rounding and denormals of this thread, without the flags that arithmetic raises.
MODES = """
#if defined(__x86_64__)
#include <immintrin.h>
static unsigned long mode(void) { return _mm_getcsr() & ~0x3fu; }
static void become(unsigned long value) { _mm_setcsr((unsigned)value); }
#elif defined(__aarch64__)
static unsigned long mode(void) {
  unsigned long value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
static void become(unsigned long value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
#endif
static PyObject* get_mode(PyObject* self, PyObject* args) {
  (void)self, (void)args;
  return PyLong_FromUnsignedLong(mode());
}
static PyObject* set_mode(PyObject* self, PyObject* value) {
  (void)self;
  become(PyLong_AsUnsignedLong(value));
  Py_RETURN_NONE;
}
"""


def in_c() -> str:
    """A module in C with a function of every name."""
    functions, methods = [], []
    for name, (result, arguments) in FUNCTIONS.items():
        kinds = [FORMATS.get(kind, ("unsigned long long", "K")) for kind in arguments.values()]
        variables = [
            f"{kind} {argument};" for (kind, _), argument in zip(kinds, arguments, strict=True)
        ]
        passed = [
            f"({kind})(uintptr_t){argument}" if kind.endswith("*") else argument
            for argument, kind in arguments.items()
        ]
        build = {"int": "PyLong_FromLong", "double": "PyFloat_FromDouble"}[result]
        functions.append(f"""
static PyObject* call_{name}(PyObject* self, PyObject* args) {{
  {" ".join(variables)}
  (void)self;
  if (!PyArg_ParseTuple(args, "{"".join(kind[1] for kind in kinds)}",
                        {", ".join("&" + argument for argument in arguments)}))
    return NULL;
  return {build}(kernels->{name}({", ".join(passed)}));
}}""")
        methods.append(f'  {{"{name}", call_{name}, METH_VARARGS, NULL}},')
    return "\n".join(
        [
            "#include <Python.h>",
            "#include <roofstep/roofstep.h>",
            "static const roofstep_kernels* kernels;",
            MODES,
            *functions,
            "static PyMethodDef methods[] = {",
            '  {"mode", get_mode, METH_NOARGS, NULL}, {"set_mode", set_mode, METH_O, NULL},',
            *methods,
            "  {NULL, NULL, 0, NULL}};",
            'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "in_c", NULL, -1, methods,',
            "                                    NULL, NULL, NULL, NULL};",
            "PyMODINIT_FUNC PyInit_in_c(void) {",
            "  kernels = roofstep_import();",
            "  return kernels ? PyModule_Create(&module) : NULL;",
            "}\n",
        ]
    )


def in_cython() -> str:
    """A module in Cython with a function of every name, called without the GIL."""
    lines = ["# cython: language_level=3", "from libc.stdint cimport int64_t"]
    lines += ["cimport roofstep.kernels as kernels", ""]
    types = {"ptrdiff_t": "Py_ssize_t"}
    for name, (result, arguments) in FUNCTIONS.items():
        takes = ", ".join(
            f"{'size_t' if kind.endswith('*') else types.get(kind, kind)} {argument}"
            for argument, kind in arguments.items()
        )
        passed = ", ".join(
            f"<{kind}>{argument}" if kind.endswith("*") else argument
            for argument, kind in arguments.items()
        )
        lines += [f"def {name}({takes}):", f"    cdef {result} result", "    with nogil:"]
        lines += [f"        result = kernels.{name}({passed})", "    return result", ""]
    return "\n".join(lines)


def by_address(name: str) -> Callable[..., Any]:
    """By ctypes, from the address that numba finds of what Cython exports."""
    import ctypes

    from numba.extending import get_cython_function_address

    kinds = {
        "int": ctypes.c_int,
        "double": ctypes.c_double,
        "ptrdiff_t": ctypes.c_ssize_t,
        "int64_t": ctypes.c_int64,
    }
    result, arguments = FUNCTIONS[name]
    takes = [kinds.get(kind, ctypes.c_void_p) for kind in arguments.values()]
    return ctypes.CFUNCTYPE(kinds[result], *takes)(
        get_cython_function_address("roofstep.kernels", name)
    )


def by_cffi(name: str) -> Callable[..., Any]:
    """From the table, by the declarations of the header."""
    import cffi

    from roofstep import kernels

    ffi = cffi.FFI()
    ffi.cdef(
        "enum roofstep_status" + HEADER.read_text().split("enum roofstep_status")[1].split("#")[0]
    )
    function = getattr(ffi.cast("roofstep_kernels *", kernels.address()), name)

    def call(*values: Any) -> Any:
        kinds = ffi.typeof(function).args
        return function(
            *(
                ffi.cast(kind, value) if kind.kind == "pointer" else value
                for kind, value in zip(kinds, values, strict=True)
            )
        )

    return call


DOORS: dict[str, Callable[[str], Callable[..., Any]]] = {
    "C": lambda name: getattr(importlib.import_module("in_c"), name),
    "Cython": lambda name: getattr(importlib.import_module("in_cython"), name),
    "address": by_address,
    "cffi": by_cffi,
}


def call(door: str, name: str, values: dict[str, Any]) -> Any:
    """What the function returns for values of these names, of which arrays come by address."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.ctypes.data
        return 0 if value is None else value

    return DOORS[door](name)(*(plain(values[name]) for name in FUNCTIONS[name].arguments))
