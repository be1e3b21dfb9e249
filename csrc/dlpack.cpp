// Remembers which types publish a table: to ask a type anew would cost more than a small tensor.
#include "dlpack.hpp"

#include <pybind11/pybind11.h>

#include <array>

#include "attribute.hpp"

namespace py = pybind11;

namespace roofstep::dlpack {

namespace {

// A reference is held to each type, so that no other type can come to stand at its address.
struct Known {
  PyTypeObject* type;
  Library library;
};
std::array<Known, 16> known;
std::size_t known_count = 0;

Library published_by(py::handle type) {
  const py::object capsule = attribute_of(type, "__dlpack_c_exchange_api__");
  const char* const name = "dlpack_exchange_api";
  if (!capsule || !PyCapsule_IsValid(capsule.ptr(), name)) return {};
  auto header = static_cast<const Header*>(PyCapsule_GetPointer(capsule.ptr(), name));
  while (header && header->version.major > 1) {
    const Header* const older = header->older;
    // Else they might go round in a circle.
    header = older && older->version.major < header->version.major ? older : nullptr;
  }
  if (header && header->version.major != 1) return {};
  const Table* const table = reinterpret_cast<const Table*>(header);
  if (!table || !table->show || !table->share) return {};
  const bool has_neg{attribute_of(type, "is_neg")}, has_dense{attribute_of(type, "is_dense")};
  return {table, has_neg, has_dense};
}

void forget_all() {
  const auto forgotten = known;
  const std::size_t count = known_count;
  known_count = 0;
  for (std::size_t i = 0; i < count; ++i) Py_DECREF(forgotten[i].type);
}

}  // namespace

Library library_of(PyTypeObject* type, PyTypeObject* excluded) {
  for (std::size_t i = 0; i < known_count; ++i) {
    if (known[i].type == type) return known[i].library;
  }
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  const Library library = PyType_IsSubtype(type, excluded) ? Library{} : published_by(handle);
  // A program that makes types without end does not fill the memory with them.
  while (known_count == known.size()) forget_all();
  known[known_count++] = {type, library};
  Py_INCREF(type);
  return library;
}

}  // namespace roofstep::dlpack
