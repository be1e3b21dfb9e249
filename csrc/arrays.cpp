// What is asked of the arrays of a step, and how they lie to each other in memory.
#include "arrays.hpp"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <vector>

namespace py = pybind11;

namespace roofstep {

namespace {

// The dimensions that matter, those of more than one element, outermost in memory first.
std::vector<int> memory_order(const Array& array) {
  std::vector<int> order;
  for (int d = 0; d < array.ndim; ++d) {
    if (array.shape[d] != 1) order.push_back(d);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return array.stride(a) > array.stride(b); });
  return order;
}

bool dense(const Array& array) {
  if (array.c_contiguous || array.size == 0) return true;
  const std::vector<int> order = memory_order(array);
  Py_ssize_t expected = static_cast<Py_ssize_t>(array.item_size());
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    if (array.stride(*d) != expected) return false;
    expected *= array.shape[*d];
  }
  return true;
}

bool same_layout(const Array& a, const Array& b) {
  if (a.c_contiguous && b.c_contiguous) return true;
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

std::string text_of(const Array& array) {
  std::vector<Py_ssize_t> strides;
  for (int d = 0; d < array.ndim; ++d) strides.push_back(array.stride(d));
  return std::string(name_of(array.dtype)) + " of shape " + tuple_text(array.shape, array.ndim) +
         " with strides of " + tuple_text(strides.data(), array.ndim) + " bytes";
}

}  // namespace

std::string tuple_text(const Py_ssize_t* values, int count) {
  py::tuple tuple(count);
  for (int i = 0; i < count; ++i) tuple[i] = values[i];
  return py::str(tuple).cast<std::string>();
}

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "float32" : "float64"; }

std::string Subject::text() const { return prefix + py::repr(name).cast<std::string>(); }

void refuse(const Subject& subject, const std::string& expected, const std::string& came,
            const std::string& remedy) {
  throw py::value_error(subject.text() + ": expected " + expected + ", got " + came + "; " +
                        remedy);
}

bool same_tensor(PyObject* a, PyObject* b, const Subject& subject) {
  if (Py_TYPE(a) != Py_TYPE(b) || !is_tensor(a)) return false;
  const Array x = view(a, subject), y = view(b, subject);
  return x.data == y.data && x.dtype == y.dtype && x.ndim == y.ndim &&
         std::equal(x.shape, x.shape + x.ndim, y.shape) && same_layout(x, y);
}

Array view_parameter(PyObject* object, const Subject& subject) {
  const Array array = view(object, subject);
  require_writable(array, subject);
  if (!dense(array)) {
    refuse(subject, "dense memory (contiguous in some order of its dimensions)", text_of(array),
           is_tensor(object) ? "give it some, as in tensor.data = tensor.data.contiguous()"
                             : "pass numpy.ascontiguousarray(array)");
  }
  return array;
}

void match(const Array& array, const Array& param, const Subject& subject) {
  if (array.dtype != param.dtype) {
    refuse(subject, std::string("its parameter's dtype ") + name_of(param.dtype),
           name_of(array.dtype),
           is_tensor(array.object)
               ? std::string("convert it with ") +
                     (param.dtype == Dtype::f32 ? ".float()" : ".double()")
               : std::string("convert it with .astype('") + name_of(param.dtype) + "')");
  }
  if (array.ndim != param.ndim || !std::equal(array.shape, array.shape + array.ndim, param.shape)) {
    refuse(subject, "its parameter's shape " + tuple_text(param.shape, param.ndim),
           tuple_text(array.shape, array.ndim), "reduce or reshape it to the parameter's shape");
  }
}

Array slot_of(const Array& ring, std::size_t slot) {
  Array array = ring;
  array.size = ring.size / static_cast<std::size_t>(ring.shape[0]);
  array.data += static_cast<Py_ssize_t>(slot) * ring.stride(0);
  array.ndim -= 1;
  array.shape += 1;
  if (array.strides) array.strides += 1;
  return array;
}

void match_states(const Array& param, const Array& state, const Subject& subject) {
  const bool same_shape =
      param.ndim == state.ndim && std::equal(param.shape, param.shape + param.ndim, state.shape);
  if (param.dtype != state.dtype || !same_shape || !same_layout(param, state)) {
    refuse(subject, "what its states were made for, " + text_of(state), text_of(param),
           "put back an array of that kind; after a change of strides alone, "
           "optimizer.load_state_dict(optimizer.state_dict()) lays the states out anew");
  }
}

void require_writable(const Array& array, const Subject& subject) {
  if (!array.writable) {
    refuse(subject, "a writable array", "a read-only one",
           "pass array.copy(), or set array.flags.writeable = True");
  }
}

void require_clearable(const Array& array, const Subject& subject) {
  require_writable(array, subject);
  if (array.size < 2) return;
  std::vector<int> order(array.ndim);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return std::abs(array.stride(a)) < std::abs(array.stride(b)); });
  Py_ssize_t reach = static_cast<Py_ssize_t>(array.item_size());
  for (const int d : order) {
    if (array.shape[d] > 1 && std::abs(array.stride(d)) < reach) {
      refuse(subject, "each element in its own memory, to be zeroed in the pass", text_of(array),
             std::string("step without clear_grad, or pass ") + copy_of(array.object));
    }
    reach += std::abs(array.stride(d)) * (array.shape[d] - 1);
  }
}

std::optional<Layout> layout_in_order_of(const Array& array, const Array& param) {
  if (array.size == 0 || same_layout(array, param)) return std::nullopt;
  Layout layout;
  for (const int d : memory_order(param)) {
    const std::ptrdiff_t extent = array.shape[d], stride = array.stride(d);
    // A dimension that continues the one outside it is part of it: longer rows are read faster.
    if (!layout.shape.empty() && layout.strides.back() == extent * stride) {
      layout.shape.back() *= extent;
      layout.strides.back() = stride;
    } else {
      layout.shape.push_back(extent);
      layout.strides.push_back(stride);
    }
  }
  return layout;
}

void set_gradient(Tensor& tensor, const Array& grad, const Array& param,
                  std::deque<Layout>& layouts) {
  tensor.dtype = param.dtype;
  tensor.size = param.size;
  tensor.grad = grad.data;
  std::optional<Layout> layout = layout_in_order_of(grad, param);
  tensor.grad_layout = layout ? &layouts.emplace_back(std::move(*layout)) : nullptr;
}

}  // namespace roofstep
