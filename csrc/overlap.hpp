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

// The bytes of many arrays without their names: tells at little cost that no two overlap, as in
// nearly every step.
class Extents {
 public:
  void clear() { extents_.clear(); }
  void add(const void* begin, std::size_t bytes) {
    if (bytes) extents_.push_back({static_cast<const char*>(begin), bytes});
  }
  void add(const Array& array);
  void add(const Extents& others);
  // Makes one of those that lie side by side, but for the padding of states.
  void join();
  // Whether no two share a byte. The order in memory is remembered: it is that of the next step.
  bool disjoint();

 private:
  struct Extent {
    const char* begin;
    std::size_t bytes;
    const char* end() const { return begin + bytes; }
  };
  bool in_order() const;
  std::vector<Extent> extents_;
  std::vector<std::size_t> order_;
};

// Throws, naming both, if two spans share bytes and one of them is written.
void refuse_overlaps(const std::vector<Span>& spans);

}  // namespace roofstep
