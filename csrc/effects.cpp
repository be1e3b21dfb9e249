// Entries of dicts, shown numbers, and the turn of a caller.
#include "effects.hpp"

#include <stdexcept>

#include "arrays.hpp"
#include "calls.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace roofstep {

namespace {

// An entry of a dict, which another thread may change meanwhile; nothing if there is none.
py::object entry_of(PyObject* dict, PyObject* key) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* found;
  if (PyDict_GetItemRef(dict, key, &found) < 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
#else
  PyObject* const found = PyDict_GetItemWithError(dict, key);
  if (!found && PyErr_Occurred()) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(found);
#endif
}

}  // namespace

Records::Records(const py::handle& pairs) {
  for (const py::handle pair : pairs) {
    if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2) {
      throw py::type_error("records are pairs of dicts");
    }
    PyObject* const into = PyTuple_GET_ITEM(pair.ptr(), 0);
    PyObject* const entries = PyTuple_GET_ITEM(pair.ptr(), 1);
    if (!PyDict_Check(into) || !PyDict_Check(entries)) {
      throw py::type_error("records are pairs of dicts");
    }
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(entries, &at, &key, &value);) {
      rows_.push_back({into, key, value, entry_of(into, key)});
    }
  }
}

void Records::put() {
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (PyDict_SetItem(rows_[i].into, rows_[i].key, rows_[i].value) == 0) continue;
    py::error_already_set error;
    take_back(i);
    throw error;
  }
}

void Records::take_back(std::size_t count) noexcept {
  while (count-- > 0) {
    const One& one = rows_[count];
    const int failed = one.old ? PyDict_SetItem(one.into, one.key, one.old.ptr())
                               : PyDict_DelItem(one.into, one.key);
    if (failed) PyErr_Clear();
  }
}

Shown::Shown(PyObject* floats, PyObject* numbers, std::size_t size) {
  if (is_row<float>(floats)) {
    singles_ = view_row<float>(floats, size);
  } else {
    doubles_ = view_row<double>(floats, size);
  }
  if (is_row<std::int64_t>(numbers)) {
    counts_ = view_row<std::int64_t>(numbers, size);
  } else {
    numbers_ = view_row<double>(numbers, size);
  }
}

void Shown::show(std::size_t i) const noexcept {
  const double exact = counts_ ? static_cast<double>(counts_[i]) : numbers_[i];
  const double shown = singles_ ? static_cast<float>(exact) : exact;
  if (singles_) singles_[i] = static_cast<float>(shown);
  if (doubles_) doubles_[i] = shown;
  if (counts_) counts_[i] = static_cast<std::int64_t>(shown);
  if (numbers_) numbers_[i] = shown;
}

void Alone::enter() {
  if (taken_.exchange(true)) throw std::runtime_error(refusal_);
  ++turns_;
}

py::object Alone::run(const py::function& function, const py::args& arguments) {
  enter();
  const struct Turn {
    Alone& alone;
    ~Turn() { alone.leave(); }
  } turn{*this};
  PyObject* const result =
      unless_ended([&] { return PyObject_CallObject(function.ptr(), arguments.ptr()); });
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

void tell_of_writes(const py::object& tensors) {
  ask_python(py::module_::import("roofstep.tensors").attr("count_writes"), tensors);
}

void Swapped::enter() {
  Alone& alone = alone_.cast<Alone&>();
  alone.enter();
  try {
    const auto [exchange, counted] =
        py::cast<std::pair<py::object, py::object>>(ask_python(ready_));
    Exchange& arrays = exchange.cast<Exchange&>();
    tell_of_writes(counted);
    arrays.make(true);
    exchange_ = exchange;
    counted_ = counted;
    inside_ = true;
  } catch (...) {
    alone.leave();
    throw;
  }
}

void Swapped::exit() {
  if (!inside_.exchange(false)) return;
  const struct End {
    Swapped& block;
    ~End() { block.undo(); }
  } end{*this};
  try {
    tell_of_writes(counted_);
  } catch (const py::error_already_set&) {
    // Most likely Ctrl-C, which comes once: what is undone untold would be taken for unchanged.
    try {
      tell_of_writes(counted_);
    } catch (const py::error_already_set&) {
    }
    throw;
  }
}

int Swapped::traverse(visitproc visit, void* arg) const {
  Py_VISIT(ready_.ptr());
  Py_VISIT(exchange_.ptr());
  Py_VISIT(counted_.ptr());
  return 0;
}

void Swapped::undo() noexcept {
  exchange_.cast<Exchange&>().make(false);
  exchange_ = counted_ = py::object();
  alone_.cast<Alone&>().leave();
}

}  // namespace roofstep
