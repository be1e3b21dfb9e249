// The Python door of a step: reads and checks everything, then lets the engine work.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "engine.hpp"

namespace roofstep {

// The settings of one kind of parameter in an optimizer; bound to Python.
struct Settings {
  int rule;  // an index into Kernels::rules, which is the same list for every ISA
  Hyper hyper;
  double scale, clip_min, clip_max;
  bool adapts;                          // by the rule's trust ratio
  std::optional<double> average_decay;  // none: the weights are not averaged
};

// Takes from `fields` those that the rule names.
Settings make_settings(const std::string& rule, const pybind11::dict& fields, double l1, double l2,
                       double decay, double scale, double clip_min, double clip_max, bool adapts,
                       std::optional<double> average_decay);

// Throws, naming the parameter, unless the array could be stepped in place.
void check_parameter(pybind11::handle array, pybind11::str name);

// Throws unless the array could be the gradient of this parameter. The message begins with the role
// and the name, which are those of a gradient if the role is empty.
void check_gradient(pybind11::handle gradient, pybind11::handle parameter, pybind11::str name,
                    const std::string& role);

// Throws, naming the parameter, unless its gradient could be filled with zeros.
void check_clearable(pybind11::handle gradient, pybind11::str name);

// Exchanges the contents of arrays, of which each entry (name, parameter, state) has two; throws
// before the first, and is not interrupted between two.
void exchange(const pybind11::tuple& pairs);

// Steps every parameter that has a gradient. An entry is a tuple (name, parameter, Settings or
// None, Norm or None, tuple of states or None); without Settings it is passed over. The states are
// those of the rule in its order, then the averaged weights if there are any. A parameter is an
// object with `data` and `grad`; `gradients` is None, or a tuple that is read in the place of the
// `grad` attributes, which alone are zeroed by `clear_grad`; `counts` (int64) and `carried`
// (float64) have a number for each entry.
//
// Returns the indices of entries that have a gradient but no states yet, having written nothing
// then; empty once the step is done.
std::vector<std::size_t> gather_and_step(const pybind11::tuple& entries,
                                         const std::optional<pybind11::tuple>& gradients,
                                         const pybind11::object& counts,
                                         const pybind11::object& carried, bool clear_grad,
                                         int threads);

// Takes the norm over rows (name, parameter's array, gradient), as a step does before it clips.
void measure_rows(Norm& norm, const std::vector<pybind11::tuple>& rows, int threads);

}  // namespace roofstep
