// A pass over memory, for which other threads get the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

#include "threads.hpp"

namespace roofstep {

// Calls what asks for the GIL, or runs Python, which does. Should the interpreter have ended,
// Python up to 3.13 ends a thread that asks, by unwinding its stack. That must not go through our
// frames: they would drop Python's objects. So the thread sleeps until the process is over, as
// later Pythons let it. `call` is of C alone, from which nothing else comes.
template <class Call>
auto unless_ended(const Call& call) {
  try {
    return call();
  } catch (...) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

// Calls a function that may be Python's, which lets go of the GIL between two bytecodes.
template <class... Arguments>
pybind11::object ask_python(pybind11::handle function, const Arguments&... arguments) {
  PyObject* const found = unless_ended(
      [&] { return PyObject_CallFunctionObjArgs(function.ptr(), arguments.ptr()..., nullptr); });
  if (!found) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(found);
}

// In place of pybind11's gil_scoped_release, whose destructor aborts the process then.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) { begin_pass(); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    end_pass();  // first: a thread that forks has the GIL
    unless_ended([this] { PyEval_RestoreThread(state_); });
  }

 private:
  PyThreadState* const state_;
};

}  // namespace roofstep
