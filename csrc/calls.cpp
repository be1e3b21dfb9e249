// Norms, checks, exchanges and the roof, for whole arrays from Python.
#include "calls.hpp"

#include <algorithm>
#include <deque>
#include <tuple>

#include "dispatch.hpp"
#include "overlap.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace roofstep {

void check_parameter(py::handle array, py::str name) {
  view_parameter(array.ptr(), {parameter_role, name.ptr()});
}

void check_gradient(py::handle gradient, py::handle parameter, py::str name,
                    const std::string& role) {
  const Subject subject{role.empty() ? gradient_role : role.c_str(), name.ptr()};
  const Array param = view_parameter(parameter.ptr(), {parameter_role, name.ptr()});
  match(view(gradient.ptr(), subject), param, subject);
}

void check_clearable(py::handle gradient, py::str name) {
  const Subject subject{gradient_role, name.ptr()};
  require_clearable(view(gradient.ptr(), subject), subject);
}

Exchange::Exchange(py::tuple pairs) : held_(std::move(pairs)) {
  std::vector<Span> spans;
  for (const py::handle pair : held_) {
    const auto [name, parameter, state] =
        py::cast<std::tuple<py::object, py::object, py::object>>(pair);
    const Array param = view_parameter(parameter.ptr(), {parameter_role, name.ptr()});
    const Array other = view_parameter(state.ptr(), {state_role, name.ptr()});
    match_states(param, other, {parameter_role, name.ptr()});
    add_span(spans, param, parameter_role, name.ptr(), true);
    add_span(spans, other, state_role, name.ptr(), true);
    arrays_.push_back({param, other});
  }
  refuse_overlaps(spans);
}

void Exchange::make(bool exchanged) {
  if (exchanged == exchanged_) return;
  for (const auto& [a, b] : arrays_) std::swap_ranges(a.data, a.data + a.bytes(), b.data);
  exchanged_ = exchanged;
}

void measure_rows(Norm& norm, const std::vector<py::tuple>& rows, int threads) {
  std::vector<Tensor> tensors;
  std::deque<Layout> layouts;
  for (const py::tuple& row : rows) {
    const py::object name = row[0], parameter = row[1], gradient = row[2];
    const Subject subject{gradient_role, name.ptr()};
    const Array param = view_parameter(parameter.ptr(), {parameter_role, name.ptr()});
    const Array grad = view(gradient.ptr(), subject);
    match(grad, param, subject);
    Tensor tensor{};  // of the first norm
    set_gradient(tensor, grad, param, layouts);
    tensors.push_back(tensor);
  }
  std::vector<Norm> norms{norm};
  {
    const Kernels& table = kernels();
    const WithoutGil pass;
    Pass(table, tensors, norms, threads).measure();
  }
  norm.value = norms[0].value;
  norm.finite = norms[0].finite;
}

float stream_arrays(const py::tuple& updated, const py::tuple& read, int threads) {
  std::size_t size = 0;
  const auto pointers = [&](const py::tuple& arrays, bool writes) {
    std::vector<float*> found;
    for (const py::handle object : arrays) {
      const py::str name("of stream()");
      const Subject subject{"an array ", name.ptr()};
      const Array array = view(object.ptr(), subject);
      if (writes) require_writable(array, subject);
      if (!size) size = array.size;
      if (array.dtype != Dtype::f32 || !array.c_contiguous || array.size != size) {
        throw py::value_error("stream() takes contiguous float32 arrays of one size");
      }
      found.push_back(reinterpret_cast<float*>(array.data));
    }
    return found;
  };
  const std::vector<float*> to = pointers(updated, true), from = pointers(read, false);
  if (to.size() > most_updated || from.size() > most_read) {
    throw py::value_error("stream() takes at most " + std::to_string(most_updated) +
                          " arrays to update and " + std::to_string(most_read) + " to read");
  }
  const Kernels& table = kernels();
  const WithoutGil pass;
  return stream(table, to, from, size, threads);
}

}  // namespace roofstep
