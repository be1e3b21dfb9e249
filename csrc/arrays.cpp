// Reads NumPy arrays through NumPy's C API, and words every refusal of an array.
#include "arrays.hpp"

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <type_traits>

namespace py = pybind11;

namespace roofstep {

namespace {

std::string text_of(py::handle object) { return py::str(object).cast<std::string>(); }

[[noreturn]] void refuse(const Subject& subject, const std::string& expected,
                         const std::string& came, const std::string& remedy) {
  throw py::value_error(subject.text() + ": expected " + expected + ", got " + came + "; " +
                        remedy);
}

std::string tuple_text(const Py_ssize_t* values, int count) {
  py::tuple tuple(count);
  for (int i = 0; i < count; ++i) tuple[i] = values[i];
  return text_of(tuple);
}

// The dimensions that matter, those of more than one element, outermost in memory first.
std::vector<int> memory_order(const Array& array) {
  std::vector<int> order;
  for (int d = 0; d < array.ndim; ++d) {
    if (array.shape[d] != 1) order.push_back(d);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return array.strides[a] > array.strides[b]; });
  return order;
}

bool dense(const Array& array) {
  if (array.c_contiguous || array.size == 0) return true;
  const std::vector<int> order = memory_order(array);
  Py_ssize_t expected = static_cast<Py_ssize_t>(array.item_size());
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    if (array.strides[*d] != expected) return false;
    expected *= array.shape[*d];
  }
  return true;
}

bool same_layout(const Array& a, const Array& b) {
  if (a.c_contiguous && b.c_contiguous) return true;
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

std::string text_of(const Array& array) {
  return std::string(name_of(array.dtype)) + " of shape " + tuple_text(array.shape, array.ndim) +
         " with strides " + tuple_text(array.strides, array.ndim);
}

}  // namespace

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "float32" : "float64"; }

std::string Subject::text() const { return prefix + text_of(py::repr(name)); }

void import_numpy() {
  if (_import_array() < 0) throw py::error_already_set();
}

Array view(PyObject* object, const Subject& subject) {
  if (PyArray_IsScalar(object, Generic)) {
    throw py::type_error(subject.text() + ": expected a NumPy array, got a NumPy scalar; " +
                         "keep it an array of no dimensions with numpy.asarray(value)");
  }
  if (!PyArray_Check(object)) {
    throw py::type_error(subject.text() + ": expected a NumPy array of float32 or float64, got " +
                         text_of(py::type::of(object).attr("__name__")) +
                         "; make one with numpy.asarray(value, dtype='float32')");
  }
  if (!PyArray_CheckExact(object) && py::hasattr(object, "mask")) {
    throw py::type_error(subject.text() +
                         ": expected an array without a mask, which a step would not see, got a "
                         "masked array; pass array.filled(0), or its array.data");
  }
  PyArrayObject* array = reinterpret_cast<PyArrayObject*>(object);
  const int type = PyArray_TYPE(array);
  if (type != NPY_FLOAT && type != NPY_DOUBLE) {
    refuse(subject, "dtype float32 or float64",
           text_of(py::handle(reinterpret_cast<PyObject*>(PyArray_DESCR(array)))),
           "convert it with array.astype('float32')");
  }
  if (PyArray_ISBYTESWAPPED(array)) {
    refuse(subject, "native byte order",
           "byte-swapped " + text_of(py::repr(reinterpret_cast<PyObject*>(PyArray_DESCR(array)))),
           "convert it with array.astype(array.dtype.newbyteorder('='))");
  }
  if (!PyArray_ISALIGNED(array)) {
    refuse(subject, "aligned memory", "a misaligned array", "copy it with array.copy()");
  }
  return {object,
          PyArray_BYTES(array),
          type == NPY_FLOAT ? Dtype::f32 : Dtype::f64,
          PyArray_NDIM(array),
          PyArray_SHAPE(array),
          PyArray_STRIDES(array),
          static_cast<std::size_t>(PyArray_SIZE(array)),
          static_cast<bool>(PyArray_IS_C_CONTIGUOUS(array)),
          static_cast<bool>(PyArray_ISWRITEABLE(array))};
}

Array view_parameter(PyObject* object, const Subject& subject) {
  const Array array = view(object, subject);
  require_writable(array, subject);
  if (!dense(array)) {
    refuse(subject, "dense memory (contiguous in some order of its dimensions)", text_of(array),
           "pass numpy.ascontiguousarray(array)");
  }
  return array;
}

void match(const Array& array, const Array& param, const Subject& subject) {
  if (array.dtype != param.dtype) {
    refuse(subject, std::string("its parameter's dtype ") + name_of(param.dtype),
           name_of(array.dtype),
           std::string("convert it with .astype('") + name_of(param.dtype) + "')");
  }
  if (array.ndim != param.ndim || !std::equal(array.shape, array.shape + array.ndim, param.shape)) {
    refuse(subject, "its parameter's shape " + tuple_text(param.shape, param.ndim),
           tuple_text(array.shape, array.ndim), "reduce or reshape it to the parameter's shape");
  }
}

Array slot_of(const Array& ring, std::size_t slot) {
  Array array = ring;
  array.size = ring.size / static_cast<std::size_t>(ring.shape[0]);
  array.data += static_cast<Py_ssize_t>(slot) * ring.strides[0];
  array.ndim -= 1;
  array.shape += 1;
  array.strides += 1;
  return array;
}

void match_states(const Array& param, const Array& state, const Subject& subject) {
  const bool same_shape =
      param.ndim == state.ndim && std::equal(param.shape, param.shape + param.ndim, state.shape);
  if (param.dtype != state.dtype || !same_shape || !same_layout(param, state)) {
    refuse(subject, "what its states were made for, " + text_of(state), text_of(param),
           "put back an array of that kind; after a change of strides alone, "
           "optimizer.set_state_dict(optimizer.state_dict()) lays the states out anew");
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
  std::vector<int> order(array.ndim);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return std::abs(array.strides[a]) < std::abs(array.strides[b]); });
  Py_ssize_t reach = static_cast<Py_ssize_t>(array.item_size());
  for (const int d : order) {
    if (array.size > 1 && array.shape[d] > 1 && std::abs(array.strides[d]) < reach) {
      refuse(subject, "each element in its own memory, to be zeroed in the pass", text_of(array),
             "step without clear_grad, or pass array.copy()");
    }
    reach += std::abs(array.strides[d]) * (array.shape[d] - 1);
  }
}

template <class T>
T* view_row(PyObject* object, std::size_t size) {
  constexpr int type = std::is_same_v<T, double> ? NPY_DOUBLE : NPY_INT64;
  PyArrayObject* array = reinterpret_cast<PyArrayObject*>(object);
  if (!PyArray_Check(object) || PyArray_TYPE(array) != type || !PyArray_ISCARRAY(array) ||
      static_cast<std::size_t>(PyArray_SIZE(array)) != size) {
    throw py::type_error("what is kept for each entry is an array with one number for each");
  }
  return static_cast<T*>(PyArray_DATA(array));
}
template std::int64_t* view_row<std::int64_t>(PyObject*, std::size_t);
template double* view_row<double>(PyObject*, std::size_t);

std::optional<Layout> layout_in_order_of(const Array& array, const Array& param) {
  if (array.size == 0 || same_layout(array, param)) return std::nullopt;
  Layout layout;
  for (const int d : memory_order(param)) {
    const std::ptrdiff_t extent = array.shape[d], stride = array.strides[d];
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
  if (std::optional<Layout> layout = layout_in_order_of(grad, param)) {
    tensor.grad_layout = &layouts.emplace_back(std::move(*layout));
  }
}

}  // namespace roofstep
