// Remembers which types publish a table: to ask a type anew would cost more than a small tensor.
#include "dlpack.hpp"

#include <pybind11/pybind11.h>

#include <array>
#include <atomic>

#include "attribute.hpp"

namespace py = pybind11;

namespace roofstep::dlpack {

namespace {

// A type that publishes a table; libraries have a few. It is written once, and only then counted,
// so that readers need no lock. A reference is held to it, so that no other type can come to stand
// at its address.
struct Known {
  PyTypeObject* type;
  Library library;
};
std::array<Known, 16> known;
std::atomic<std::size_t> known_count{0};
std::atomic<bool> being_written{false};

const Known* find(const PyTypeObject* type) {
  const std::size_t count = known_count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    if (known[i].type == type) return &known[i];
  }
  return nullptr;
}

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

// A program that makes such types without end has those asked for which there is no room. Who comes
// while another writes asks the type anew next time: nobody waits, not even the child of a fork.
void remember(PyTypeObject* type, const Library& library) {
  if (being_written.exchange(true)) return;
  const std::size_t count = known_count;
  if (count < known.size() && !find(type)) {  // it may have come while this one was asked
    Py_INCREF(type);
    known[count] = {type, library};
    known_count.store(count + 1, std::memory_order_release);
  }
  being_written = false;
}

}  // namespace

Library library_of(PyTypeObject* type, PyTypeObject* excluded) {
  if (const Known* const one = find(type)) return one->library;
  if (PyType_IsSubtype(type, excluded)) return {};
  const Library library = published_by(reinterpret_cast<PyObject*>(type));
  if (library.table) remember(type, library);
  return library;
}

}  // namespace roofstep::dlpack
