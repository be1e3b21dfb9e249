"""Puts the compiled module that Clang has instrumented in the place of the installed one."""

import importlib.util
import os
import sys

_SPEC = importlib.util.spec_from_file_location("roofstep._core", os.environ["ROOFSTEP_FUZZED"])
assert _SPEC
assert _SPEC.loader
sys.modules["roofstep._core"] = core = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(core)
