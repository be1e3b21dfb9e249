// Whether two arrays of a step share bytes: a step would read what it has already written.
#pragma once

#include <vector>

#include "arrays.hpp"

namespace roofstep {

// The bytes of one array of the step.
struct Span {
  const char *begin, *end;
  PyObject* array;
  const char* role;
  PyObject* name;
  bool written, dense;
  // Where it is not dense: its elements lie in runs of `run` bytes, whose starts are multiples of
  // `period` bytes away from `begin`.
  Py_ssize_t run, period;
};

// Notes the bytes of an array, unless it has none.
void add_span(std::vector<Span>& spans, const Array& array, const char* role, PyObject* name,
              bool written);

// Throws, naming both, if two spans share bytes and one of them is written.
void refuse_overlaps(const std::vector<Span>& spans);

}  // namespace roofstep
