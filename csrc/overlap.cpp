// Finds overlaps by one sweep over the addresses.
#include "overlap.hpp"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace py = pybind11;

namespace roofstep {

namespace {

// The runs and the period of an array that is not dense; see Span.
void describe_gaps(Span& span, const Array& array) {
  std::vector<std::pair<Py_ssize_t, Py_ssize_t>> dimensions;  // stride, extent
  for (int d = 0; d < array.ndim; ++d) {
    if (array.shape[d] > 1) dimensions.emplace_back(std::abs(array.stride(d)), array.shape[d]);
  }
  std::sort(dimensions.begin(), dimensions.end());
  for (const auto& [stride, extent] : dimensions) {
    if (span.period == 0 && stride <= span.run) {
      span.run += stride * (extent - 1);
    } else {
      span.period = std::gcd(span.period, stride);
    }
  }
}

}  // namespace

void add_span(std::vector<Span>& spans, const Array& array, const char* role, PyObject* name,
              bool written) {
  if (array.size == 0) return;
  const char* begin = array.data;
  if (array.c_contiguous) {
    spans.push_back({begin, begin + array.bytes(), array.object, role, name, written, true, 0, 0});
    return;
  }
  const char* end = begin + array.item_size();
  for (int d = 0; d < array.ndim; ++d) {
    const Py_ssize_t reach = (array.shape[d] - 1) * array.stride(d);
    (reach < 0 ? begin : end) += reach;
  }
  const bool is_dense = static_cast<std::size_t>(end - begin) == array.bytes();
  spans.push_back({begin, end, array.object, role, name, written, is_dense,
                   static_cast<Py_ssize_t>(array.item_size()), 0});
  if (!is_dense) describe_gaps(spans.back(), array);
}

namespace {

// Whether the runs of the one surely fall into the gaps of the other, as columns of one matrix do.
bool surely_interleaved(const Span& a, const Span& b) {
  const Py_ssize_t period = std::gcd(a.period, b.period);
  if (a.dense || b.dense || a.run + b.run > period) return false;
  const Py_ssize_t ahead = ((b.begin - a.begin) % period + period) % period;
  return ahead >= a.run && period - ahead >= b.run;
}

bool overlap(const Span& a, const Span& b) {
  if (a.dense && b.dense) return true;
  // Interleaved slices of one buffer: their spans overlap though their bytes need not. NumPy knows
  // in all cases, but takes its time where there are many.
  if (surely_interleaved(a, b)) return false;
  return py::module_::import("numpy")
      .attr("shares_memory")(as_numpy(a.array, {a.role, a.name}),
                             as_numpy(b.array, {b.role, b.name}))
      .cast<bool>();
}

std::string text_of(const Span& span) { return Subject{span.role, span.name}.text(); }

[[noreturn]] void refuse_overlap(const Span& a, const Span& b) {
  throw py::value_error(text_of(a) + " and " + text_of(b) +
                        " overlap in memory: a step would read what it has already written; "
                        "give each its own memory, for example " +
                        copy_of(b.array));
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
