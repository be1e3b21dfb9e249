// The one way in for arrays: what memory an object holds, or a refusal that says what to do.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <optional>
#include <string>

#include "engine.hpp"

namespace roofstep {

// A view of the memory of a NumPy array or of a tensor; valid as long as this is.
struct Array {
  PyObject* object;
  char* data;
  Dtype dtype;
  int ndim;
  const Py_ssize_t* shape;
  const Py_ssize_t* strides;  // in units of the library; null: C order
  Py_ssize_t stride_unit;     // in bytes
  std::size_t size;
  bool c_contiguous, writable;

  std::size_t item_size() const { return dtype == Dtype::f32 ? 4 : 8; }
  std::size_t bytes() const { return size * item_size(); }
  Py_ssize_t stride(int d) const {  // in bytes
    if (strides) return strides[d] * stride_unit;
    Py_ssize_t stride = static_cast<Py_ssize_t>(item_size());
    while (++d < ndim) stride *= shape[d];
    return stride;
  }
};

// Who is spoken of in a message: "parameter 'w'" or "the gradient of parameter 'w'".
struct Subject {
  const char* prefix;
  PyObject* name;
  std::string text() const;
};

inline constexpr const char* parameter_role = "parameter ";
inline constexpr const char* gradient_role = "the gradient of parameter ";
inline constexpr const char* state_role = "a state of parameter ";

const char* name_of(Dtype dtype);

// Throws ValueError: "{subject}: expected {expected}, got {came}; {remedy}".
[[noreturn]] void refuse(const Subject& subject, const std::string& expected,
                         const std::string& came, const std::string& remedy);

// Imports the NumPy C API; throws with the Python error set.
void import_numpy();

// Whether the object is a tensor of a library that shows its memory through DLPack; see dlpack.hpp.
bool is_tensor(PyObject* object);

// Throws TypeError or ValueError unless the object is a native, aligned float array, or such a
// tensor in the memory of the CPU.
Array view(PyObject* object, const Subject& subject);

// The same, but false if the object is neither an array nor a tensor that its library shows.
bool view_if_dense(PyObject* object, const Subject& subject, Array& found);

// What a parameter was when it was last looked at in full, if it was as simple as nearly all are.
struct Form {
  static constexpr int most_dimensions = 4;
  const void* descr = nullptr;  // NumPy's of the dtype; null: it was not so simple
  std::size_t size, bytes;
  int ndim;
  Py_ssize_t shape[most_dimensions];
};

// A form if these are NumPy arrays of one dtype and shape, and the parameter is in C order.
Form form_of(const Array& param, const Array& grad);

// Whether the two are arrays of this form, and writable: `view_parameter`, `view` and `match` would
// find nothing new.
bool fits(const Form& form, PyObject* param, PyObject* grad);

// Where the elements of a NumPy array begin.
void* elements_of(PyObject* array);

// Whether two objects are tensors over the same elements: some libraries make a new object at each
// look at `grad`.
bool same_tensor(PyObject* a, PyObject* b, const Subject& subject);

// A NumPy array over the same memory, which it keeps alive; a NumPy array is returned itself.
// Throws as `view`.
pybind11::object as_numpy(PyObject* object, const Subject& subject);

// How to copy an object of the kind, for a remedy.
const char* copy_of(PyObject* object);

// Throws unless the array may be stepped in place: writable, and dense in some order of dimensions.
Array view_parameter(PyObject* object, const Subject& subject);

// Throws unless the array has the parameter's dtype and shape.
void match(const Array& array, const Array& param, const Subject& subject);

// A shape as Python shows it.
std::string tuple_text(const Py_ssize_t* values, int count);

// Nothing if the two arrays lie in memory alike, else how to read the one in the other's order.
std::optional<Layout> layout_in_order_of(const Array& array, const Array& param);

// One slot of an array of several, as an array of one dimension less.
Array slot_of(const Array& ring, std::size_t slot);

// Puts into a tensor its size, and where its gradient is in the order of the parameter's memory.
void set_gradient(Tensor& tensor, const Array& grad, const Array& param,
                  std::deque<Layout>& layouts);

// Throws unless the parameter still is what its states were made for.
void match_states(const Array& param, const Array& state, const Subject& subject);

void require_writable(const Array& array, const Subject& subject);

// Throws unless the array is writable and none of its elements share memory.
void require_clearable(const Array& array, const Subject& subject);

// The memory of an array of the given size with a number of type T, int64, float or double, for
// each entry.
template <class T>
T* view_row(PyObject* object, std::size_t size);

// Whether it is an array of this type.
template <class T>
bool is_row(PyObject* object);

}  // namespace roofstep
