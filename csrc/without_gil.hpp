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
