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

// Steps every parameter that has a gradient. An entry is a tuple (name, parameter, Settings or
// None, Norm or None, tuple of states or None); without Settings it is passed over. The states are
// those of the rule in its order, then the averaged weights if there are any. A parameter is a
// tensor, or an object with `data`, the array, and `grad`; `gradients` is None, or a tuple that is
// read in the place of the `grad` attributes, which alone are zeroed by `clear_grad`; `counts`
// (int64) and `carried` (float64) have a number for each entry.
//
// Returns the indices of entries that have a gradient but no states yet, having written nothing
// then; empty once the step is done.
std::vector<std::size_t> gather_and_step(const pybind11::tuple& entries,
                                         const std::optional<pybind11::tuple>& gradients,
                                         const pybind11::object& counts,
                                         const pybind11::object& carried, bool clear_grad,
                                         int threads);

}  // namespace roofstep
