// A pass over memory, for which other threads get the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

#include "threads.hpp"

namespace roofstep {

// In place of pybind11's gil_scoped_release: should the interpreter have ended meanwhile, Python up
// to 3.13 ends this thread as it asks for the GIL, by unwinding its stack. That must not go through
// a destructor, nor drop Python's objects. So the thread sleeps until the process is over, as later
// Pythons let it.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) { begin_pass(); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    end_pass();  // first: a thread that forks has the GIL
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* const state_;
};

}  // namespace roofstep
