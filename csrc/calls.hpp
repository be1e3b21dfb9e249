// The Python door of all that is done to arrays beside a step.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "engine.hpp"

namespace roofstep {

// Throws, naming the parameter, unless the array could be stepped in place.
void check_parameter(pybind11::handle array, pybind11::str name);

// Throws unless the array could be the gradient of this parameter. The message begins with the role
// and the name, which are those of a gradient if the role is empty.
void check_gradient(pybind11::handle gradient, pybind11::handle parameter, pybind11::str name,
                    const std::string& role);

// Throws, naming the parameter, unless its gradient could be filled with zeros.
void check_clearable(pybind11::handle gradient, pybind11::str name);

// An exchange of the contents of arrays, of which each pair (name, parameter, state) has two: it
// throws when it is made, and later no more. Done or undone once, it does nothing when asked again.
class Exchange {
 public:
  explicit Exchange(pybind11::tuple pairs);
  void make(bool exchanged);

 private:
  pybind11::tuple held_;
  std::vector<std::pair<Array, Array>> arrays_;
  bool exchanged_ = false;
};

// Takes the norm over rows (name, parameter's array, gradient), as a step does before it clips.
void measure_rows(Norm& norm, const std::vector<pybind11::tuple>& rows, int threads);

// Reads the arrays of the one tuple and rewrites those of the other, as an update does; all are
// contiguous float32 of one size. Returns a number that depends on what was read.
float stream_arrays(const pybind11::tuple& updated, const pybind11::tuple& read, int threads);

}  // namespace roofstep
