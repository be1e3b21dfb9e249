// Remembers which types publish a table: to ask a type anew would cost more than a small tensor.
#include "dlpack.hpp"

#include <pybind11/pybind11.h>

#include <array>
#include <atomic>

#include "attribute.hpp"

namespace py = pybind11;

namespace roofstep::dlpack {

namespace {

// A type that publishes a table; libraries have a few. It is written once, by the thread that has
// claimed the place, and its type last, so that readers need no lock. A reference is held to it, so
// that no other type can come to stand at its address.
struct Known {
  std::atomic<PyTypeObject*> type{nullptr};
  Library library;
};
std::array<Known, 16> known;
std::atomic<std::size_t> claimed{0};

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

// A program that makes such types without end has those asked for which there is no room.
void remember(PyTypeObject* type, const Library& library) {
  std::size_t place = claimed;
  do {
    if (place == known.size()) return;
  } while (!claimed.compare_exchange_weak(place, place + 1));
  Py_INCREF(type);
  known[place].library = library;
  known[place].type.store(type, std::memory_order_release);
}

}  // namespace

Library library_of(PyTypeObject* type, PyTypeObject* excluded) {
  for (const Known& one : known) {
    PyTypeObject* const other = one.type.load(std::memory_order_acquire);
    if (other == type) return one.library;
    if (!other) break;
  }
  if (PyType_IsSubtype(type, excluded)) return {};
  const Library library = published_by(reinterpret_cast<PyObject*>(type));
  if (library.table) remember(type, library);
  return library;
}

}  // namespace roofstep::dlpack
