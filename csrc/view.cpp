// Reads NumPy arrays through NumPy's C API, and tensors through DLPack.
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "arrays.hpp"
#include "attribute.hpp"
#include "dlpack.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace roofstep {

namespace {

// NumPy's own, which live as long as it does.
const PyArray_Descr *float_descr, *double_descr;

}  // namespace

void import_numpy() {
  if (_import_array() < 0) throw py::error_already_set();
  float_descr = PyArray_DescrFromType(NPY_FLOAT);
  double_descr = PyArray_DescrFromType(NPY_DOUBLE);
}

namespace {

std::string text_of(py::handle object) { return py::str(object).cast<std::string>(); }

Array view_ndarray(PyObject* object, const Subject& subject) {
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
  Array view{object,
             PyArray_BYTES(array),
             type == NPY_FLOAT ? Dtype::f32 : Dtype::f64,
             PyArray_NDIM(array),
             PyArray_SHAPE(array),
             PyArray_STRIDES(array),
             1,
             1,
             static_cast<bool>(PyArray_IS_C_CONTIGUOUS(array)),
             static_cast<bool>(PyArray_ISWRITEABLE(array))};
  for (int d = 0; d < view.ndim; ++d) view.size *= static_cast<std::size_t>(view.shape[d]);
  return view;
}

// What a look gives that serves a message: if it fails, the message does without.
template <class Found, class Look>
Found unless_failed(Found otherwise, const Look& look) {
  try {
    return look();
  } catch (const py::error_already_set& error) {
    if (!may_pass(error)) throw;
    return otherwise;
  }
}

std::string text_of(py::handle object, const char* name, const char* otherwise) {
  return unless_failed<std::string>(otherwise, [&] {
    const py::object found = attribute_of(object, name);
    return found ? text_of(found) : otherwise;
  });
}

// What a library answers that has an attribute or a method of this name; false if it has none.
bool says(py::handle object, const char* name) {
  return unless_failed(false, [&] {
    py::object answer = attribute_of(object, name);
    if (answer && PyCallable_Check(answer.ptr())) answer = ask_python(answer);
    return answer && py::bool_(answer);
  });
}

[[noreturn]] void refuse_kind(py::handle tensor, const Subject& subject, const char* other) {
  std::string came = other, remedy = "pass a dense one that has memory of its own";
  if (says(tensor, "is_meta")) {
    came = "one on the meta device";
    remedy = "give it memory first, as model.to_empty(device='cpu') does";
  } else if (text_of(tensor, "layout", "").find("sparse") != std::string::npos ||
             says(tensor, "is_sparse") || says(tensor, "is_selected_rows")) {
    came = "a sparse tensor";
    remedy = "pass tensor.to_dense(), or make the layer with sparse=False";
  }
  refuse(subject, "a dense tensor in the memory of the CPU", came, remedy);
}

// In place of the library's own error, if there is one, which becomes the cause of this one.
[[noreturn]] void refuse_unshown(py::handle tensor, const Subject& subject) {
  if (!PyErr_Occurred()) refuse_kind(tensor, subject, "another");
  py::error_already_set error;
  if (!may_pass(error)) throw error;
  const std::string reason =
      unless_failed<std::string>("of no words", [&] { return text_of(error.value()); });
  const std::string line = reason.substr(0, reason.find('\n'));
  try {
    refuse_kind(tensor, subject, ("one that its library does not show: " + line).c_str());
  } catch (const py::value_error& refusal) {
    py::raise_from(error, PyExc_ValueError, refusal.what());
    throw py::error_already_set();
  }
}

// Calls a method that answers True or False.
bool ask(PyObject* object, PyObject* method) {
  const auto answer = py::reinterpret_steal<py::object>(
      unless_ended([&] { return PyObject_CallMethodNoArgs(object, method); }));
  if (!answer) throw py::error_already_set();
  return answer.is(py::handle(Py_True));
}

// A lazily negated tensor looks like any other. Without private functions of its library it is a
// view of the imaginary parts of complex numbers: only where no stride is 1 is there need to ask.
void require_literal(const Array& array, const Subject& subject) {
  if (array.size > 1) {
    for (int d = 0; d < array.ndim; ++d) {
      if (array.shape[d] != 1 && array.stride(d) == static_cast<Py_ssize_t>(array.item_size()))
        return;
    }
  }
  if (ask(array.object, interned.is_neg)) {
    refuse(subject, "a tensor whose memory holds its values", "a lazily negated view",
           "pass tensor.resolve_neg()");
  }
}

// No memory has more bytes, and two such numbers can be added and negated.
constexpr std::uint64_t most_bytes = PY_SSIZE_T_MAX / 2;

bool multiply(std::uint64_t& product, std::uint64_t factor) {
  return !__builtin_mul_overflow(product, factor, &product) && product <= most_bytes;
}

// Whether a tensor of real numbers can lie in memory: whoever computes with its extents, strides
// and addresses meets no overflow then, be it empty or not. That it ends where its memory does has
// to be believed.
bool possible(const dlpack::Tensor& tensor) {
  if (tensor.ndim < 0 || tensor.ndim > NPY_MAXDIMS || (tensor.ndim && !tensor.shape)) return false;
  const std::uint64_t item = tensor.element.bits / 8;
  std::uint64_t bytes = item;
  bool empty = false;
  for (int d = 0; d < tensor.ndim; ++d) {
    const std::uint64_t extent = static_cast<std::uint64_t>(tensor.shape[d]);  // huge if it is < 0
    empty = empty || extent == 0;
    if (!multiply(bytes, extent ? extent : 1)) return false;
  }
  std::uint64_t before = 0, after = tensor.strides ? item : bytes;
  for (int d = 0; tensor.strides && d < tensor.ndim; ++d) {
    const std::int64_t stride = tensor.strides[d];
    std::uint64_t far = static_cast<std::uint64_t>(stride);
    if (stride < 0) far = 0 - far;
    if (!multiply(far, item)) return false;
    if (empty) continue;
    if (!multiply(far, static_cast<std::uint64_t>(tensor.shape[d] - 1))) return false;
    (stride < 0 ? before : after) += far;
    if (before + after > most_bytes) return false;
  }
  std::uint64_t first, end;
  if (__builtin_add_overflow(reinterpret_cast<std::uintptr_t>(tensor.data), tensor.byte_offset,
                             &first)) {
    return false;
  }
  if (empty) return true;
  // Then the difference of two addresses is a number, too.
  return before <= first && !__builtin_add_overflow(first, after, &end) && end <= PTRDIFF_MAX;
}

// What the library tells of a tensor, if it is as a step needs it.
Array view_shown(const dlpack::Library& library, PyObject* object, const dlpack::Tensor& tensor,
                 const Subject& subject) {
  if (tensor.device.type != dlpack::cpu) {
    refuse(subject, "a tensor in the memory of the CPU",
           "one on " + text_of(object, "device", "another device"),
           "move it there with tensor.cpu(), or its model with model.to('cpu')");
  }
  const auto [code, bits, lanes] = tensor.element;
  if (code != dlpack::floating_point || (bits != 32 && bits != 64) || lanes != 1) {
    refuse(subject, "dtype float32 or float64", text_of(object, "dtype", "another"),
           code == dlpack::complex_number
               ? "step its real and imaginary parts as one real tensor, as by torch.view_as_real"
               : "convert the tensor, or its model, with .float()");
  }
  if (!possible(tensor)) {
    refuse(subject, "a tensor that memory can hold",
           "one whose library gives it dimensions, strides or an address that none can have",
           "copy it with tensor.clone()");
  }
  static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
  Array view{
      object,
      reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset),
      bits == 32 ? Dtype::f32 : Dtype::f64,
      tensor.ndim,
      reinterpret_cast<const Py_ssize_t*>(tensor.shape),
      reinterpret_cast<const Py_ssize_t*>(tensor.strides),
      bits / 8,
      1,
      true,
      true};
  for (int d = view.ndim; d-- > 0;) {
    const bool continues = !view.strides || view.shape[d] == 1 ||
                           view.strides[d] == static_cast<Py_ssize_t>(view.size);
    view.c_contiguous = view.c_contiguous && continues;
    view.size *= static_cast<std::size_t>(view.shape[d]);
  }
  view.c_contiguous = view.c_contiguous || view.size == 0;
  if (view.size && !tensor.data) {
    refuse(subject, "a tensor with memory", "one whose memory is not there",
           "pass a copy that was made while it was, or fill it anew");
  }
  if (reinterpret_cast<std::uintptr_t>(view.data) % view.item_size()) {
    refuse(subject, "aligned memory", "a misaligned tensor", "copy it with tensor.clone()");
  }
  if (library.is_neg && view.size && !(view.c_contiguous && view.size > 1)) {
    require_literal(view, subject);
  }
  return view;
}

// False, perhaps with a Python error set, if the library does not show the memory of a tensor.
bool view_tensor(const dlpack::Library& library, PyObject* object, const Subject& subject,
                 Array& view) {
  if (library.is_dense && !ask(object, interned.is_dense)) return false;
  dlpack::Tensor tensor;
  if (library.table->show(object, &tensor) != 0) return false;
  view = view_shown(library, object, tensor, subject);
  return true;
}

dlpack::Library library_of(PyObject* object) {
  return dlpack::library_of(Py_TYPE(object), &PyArray_Type);
}

// Throws if the object, which is no tensor, is no array either.
void require_ndarray(PyObject* object, const Subject& subject) {
  if (PyArray_IsScalar(object, Generic)) {
    throw py::type_error(subject.text() + ": expected a NumPy array, got a NumPy scalar; " +
                         "keep it an array of no dimensions with numpy.asarray(value)");
  }
  if (!PyArray_Check(object) && attribute_of(object, "to_dense")) {
    refuse(subject, "a dense array", "a sparse one", "pass its to_dense(number of rows)");
  }
  if (!PyArray_Check(object)) {
    const py::type type = py::type::of(object);
    if (text_of(type, "__module__", "").rfind("jax", 0) == 0) {
      throw py::type_error(subject.text() +
                           ": expected a NumPy array, got one of JAX, which cannot be written; "
                           "keep parameters in NumPy, as in jax.tree.map(numpy.array, params), and "
                           "give gradients to roofstep.jax.apply_gradients");
    }
    throw py::type_error(subject.text() +
                         ": expected a NumPy array or a torch or Paddle tensor of float32 or "
                         "float64, got " +
                         text_of(type, "__name__", "another") +
                         "; make an array with numpy.asarray(value, dtype='float32')");
  }
  if (attribute_of(object, "mask")) {
    throw py::type_error(subject.text() +
                         ": expected an array without a mask, which a step would not see, got a "
                         "masked array; pass array.filled(0), or its array.data");
  }
}

}  // namespace

bool is_tensor(PyObject* object) { return library_of(object).table != nullptr; }

bool view_if_dense(PyObject* object, const Subject& subject, Array& found) {
  if (!PyArray_CheckExact(object)) {
    const dlpack::Library library = library_of(object);
    if (library.table) {
      const bool shown = view_tensor(library, object, subject, found);
      if (!shown && PyErr_Occurred()) {
        const py::error_already_set error;
        if (!may_pass(error)) throw error;
      }
      return shown;
    }
    if (!PyArray_Check(object)) return false;
    require_ndarray(object, subject);
  }
  found = view_ndarray(object, subject);
  return true;
}

Array view(PyObject* object, const Subject& subject) {
  if (!PyArray_CheckExact(object)) {
    const dlpack::Library library = library_of(object);
    if (library.table) {
      Array found;
      if (!view_tensor(library, object, subject, found)) refuse_unshown(object, subject);
      return found;
    }
    require_ndarray(object, subject);
  }
  return view_ndarray(object, subject);
}

py::object as_numpy(PyObject* object, const Subject& subject) {
  view(object, subject);
  if (!is_tensor(object)) return py::reinterpret_borrow<py::object>(object);
  // Of a tensor of its own, since torch gives the same one other memory at `p.data = q`; and
  // shared, since Paddle frees the memory of a gradient at `p.grad = None`, whoever else holds it.
  py::object owner = py::reinterpret_borrow<py::object>(object);
  if (const py::object detach = attribute_of(owner, "detach")) owner = ask_python(detach);
  const Array shown = view(owner.ptr(), subject);
  const dlpack::Library library = library_of(owner.ptr());
  if (!library.table) {
    refuse(subject, "a tensor whose detach() gives a tensor",
           "one that gives a " + text_of(py::type::of(owner), "__name__", "other object"),
           "pass a NumPy array over its memory");
  }
  dlpack::Shared* shared = nullptr;
  if (library.table->share(owner.ptr(), &shared) != 0 || !shared) refuse_unshown(owner, subject);
  const auto release = [](void* pointer) {
    const auto owned = static_cast<dlpack::Shared*>(pointer);
    if (owned->release) owned->release(owned);
  };
  std::unique_ptr<dlpack::Shared, decltype(release)> held(shared, release);
  py::capsule memory(shared, release);
  held.release();
  if (shared->version.major != 1) {
    refuse(subject, "a tensor by version 1 of DLPack",
           "one by version " + std::to_string(shared->version.major),
           "update roofstep, or pass a NumPy array over its memory");
  }
  const Array array = view_shown(library, owner.ptr(), shared->tensor, subject);
  if (array.size && array.data != shown.data) {
    refuse(subject, "a tensor whose memory its library shares", "one of which it shares a copy",
           "copy it with tensor.clone()");
  }
  std::vector<npy_intp> strides;
  for (int d = 0; d < array.ndim; ++d) strides.push_back(array.stride(d));
  static char nothing[sizeof(double)];
  PyObject* const made =
      PyArray_New(&PyArray_Type, array.ndim, const_cast<npy_intp*>(array.shape),
                  array.dtype == Dtype::f32 ? NPY_FLOAT : NPY_DOUBLE, strides.data(),
                  array.size ? array.data : nothing, 0,
                  shared->flags & dlpack::read_only ? 0 : NPY_ARRAY_WRITEABLE, nullptr);
  if (!made) throw py::error_already_set();
  const py::object result = py::reinterpret_steal<py::object>(made);
  if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(made), memory.release().ptr()) != 0) {
    throw py::error_already_set();
  }
  return result;
}

const char* copy_of(PyObject* object) {
  return is_tensor(object) ? "tensor.clone()" : "array.copy()";
}

template <class T>
bool is_row(PyObject* object) {
  constexpr int type = std::is_same_v<T, double>  ? NPY_DOUBLE
                       : std::is_same_v<T, float> ? NPY_FLOAT
                                                  : NPY_INT64;
  return PyArray_Check(object) && PyArray_TYPE(reinterpret_cast<PyArrayObject*>(object)) == type;
}
template bool is_row<std::int64_t>(PyObject*);
template bool is_row<float>(PyObject*);
template bool is_row<double>(PyObject*);

template <class T>
T* view_row(PyObject* object, std::size_t size) {
  PyArrayObject* array = reinterpret_cast<PyArrayObject*>(object);
  if (!is_row<T>(object) || !PyArray_ISCARRAY(array) ||
      static_cast<std::size_t>(PyArray_SIZE(array)) != size) {
    throw py::type_error("what is kept for each entry is an array with one number for each");
  }
  return static_cast<T*>(PyArray_DATA(array));
}
template std::int64_t* view_row<std::int64_t>(PyObject*, std::size_t);
template float* view_row<float>(PyObject*, std::size_t);
template double* view_row<double>(PyObject*, std::size_t);

Form form_of(const Array& param, const Array& grad) {
  Form form;
  const bool arrays = PyArray_CheckExact(param.object) && PyArray_CheckExact(grad.object);
  if (!arrays || !param.c_contiguous || param.ndim > Form::most_dimensions) return form;
  const PyArray_Descr* descr = PyArray_DESCR(reinterpret_cast<PyArrayObject*>(param.object));
  // Another may be freed, and one of another dtype come to stand at its address.
  if (descr != float_descr && descr != double_descr) return form;
  form.descr = descr;
  form.size = param.size;
  form.bytes = param.bytes();
  form.ndim = param.ndim;
  std::copy(param.shape, param.shape + param.ndim, form.shape);
  return form;
}

bool fits(const Form& form, PyObject* param, PyObject* grad) {
  if (!PyArray_CheckExact(param) || !PyArray_CheckExact(grad)) return false;
  constexpr int flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE;
  for (PyObject* const object : {param, grad}) {
    PyArrayObject* const array = reinterpret_cast<PyArrayObject*>(object);
    if (PyArray_DESCR(array) != form.descr || PyArray_NDIM(array) != form.ndim ||
        !PyArray_CHKFLAGS(array, flags)) {
      return false;
    }
    for (int d = 0; d < form.ndim; ++d) {
      if (PyArray_DIMS(array)[d] != form.shape[d]) return false;
    }
  }
  return true;
}

void* elements_of(PyObject* array) { return PyArray_DATA(reinterpret_cast<PyArrayObject*>(array)); }

}  // namespace roofstep
