// Finds overlaps by one sweep over the addresses.
#include "overlap.hpp"

#include <pybind11/pybind11.h>

#include <algorithm>

namespace py = pybind11;

namespace roofstep {

void add_span(std::vector<Span>& spans, const Array& array, const char* role, PyObject* name,
              bool written) {
  if (array.size == 0) return;
  const char *begin = array.data, *end = array.data + array.item_size();
  std::size_t extent = array.item_size();
  for (int d = 0; d < array.ndim; ++d) {
    const Py_ssize_t reach = (array.shape[d] - 1) * array.strides[d];
    (reach < 0 ? begin : end) += reach;
    extent *= static_cast<std::size_t>(array.shape[d]);
  }
  const bool is_dense = static_cast<std::size_t>(end - begin) == extent;
  spans.push_back({begin, end, array.object, role, name, written, is_dense});
}

namespace {

bool overlap(const Span& a, const Span& b) {
  if (a.dense && b.dense) return true;
  // Interleaved slices of one buffer: their spans overlap though their bytes need not.
  return py::module_::import("numpy")
      .attr("shares_memory")(py::handle(a.array), py::handle(b.array))
      .cast<bool>();
}

std::string text_of(const Span& span) { return Subject{span.role, span.name}.text(); }

[[noreturn]] void refuse_overlap(const Span& a, const Span& b) {
  throw py::value_error(text_of(a) + " and " + text_of(b) +
                        " overlap in memory: a step would read what it has already written; "
                        "give each its own memory, for example array.copy()");
}

}  // namespace

void refuse_overlaps(const std::vector<Span>& spans) {
  struct Start {
    const char* begin;
    const Span* span;
    bool operator<(const Start& other) const { return begin < other.begin; }
  };
  std::vector<Start> starts;
  starts.reserve(spans.size());
  for (const Span& span : spans) starts.push_back({span.begin, &span});
  if (!std::is_sorted(starts.begin(), starts.end())) std::sort(starts.begin(), starts.end());

  std::vector<const Span*> open;  // those that begin before the current one and end after it
  const char* reach = nullptr;    // the furthest end of all so far
  for (const Start& start : starts) {
    const Span& span = *start.span;
    if (span.begin >= reach) {
      open.clear();
    } else {
      for (const Span* other : open) {
        const bool written = span.written || other->written;
        if (written && other->end > span.begin && overlap(*other, span)) {
          refuse_overlap(*other, span);
        }
      }
    }
    open.push_back(&span);
    reach = std::max(reach, span.end);
  }
}

}  // namespace roofstep
