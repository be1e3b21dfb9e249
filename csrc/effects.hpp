// What a step does to Python's objects: it is done in the one call that writes, since Ctrl-C is
// delivered between any two bytecodes.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace roofstep {

// Puts entries into dicts, all of them or none.
class Records {
 public:
  // `pairs` are (dict, dict of its new entries). Throws with the Python error set.
  explicit Records(const pybind11::handle& pairs);
  void put();

 private:
  struct One {
    PyObject *into, *key, *value;
    pybind11::object old;  // none: the key is new
  };
  void take_back(std::size_t count) noexcept;

  std::vector<One> rows_;
};

// A row of floats that shows a row of counts or numbers to users.
class Shown {
 public:
  // Two NumPy arrays: float32 or float64, and int64 or float64, of this size.
  Shown(PyObject* floats, PyObject* numbers, std::size_t size);
  // The number keeps no more digits than are shown.
  void show(std::size_t i) const noexcept;

 private:
  float* singles_ = nullptr;
  double* doubles_ = nullptr;  // one of the two
  std::int64_t* counts_ = nullptr;
  double* numbers_ = nullptr;  // one of the two
};

// Refuses two calls at once: a step lets go of the GIL while it writes. In Python no code could
// leave a lock whatever happens: Ctrl-C may come on the way.
class Alone {
 public:
  explicit Alone(std::string refusal) : refusal_(std::move(refusal)) {}
  void enter();
  void leave() { taken_ = false; }
  pybind11::object run(const pybind11::function& function, const pybind11::args& arguments);

 private:
  const std::string refusal_;
  std::atomic<bool> taken_{false};
};

}  // namespace roofstep
