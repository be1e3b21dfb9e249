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
  // How many turns there have been, by which a longer look sees that one came between.
  std::uint64_t turns() const { return turns_; }

 private:
  const std::string refusal_;
  std::atomic<bool> taken_{false};
  std::atomic<std::uint64_t> turns_{0};
};

// Tells the libraries that count writes that these tensors, a list, are written.
void tell_of_writes(const pybind11::object& tensors);

// A block of `with` that is one turn, in which arrays hold each other's contents. It ends in one
// stroke, and also if it is dropped before its end.
class Swapped {
 public:
  // Within the turn the function is asked for (Exchange, list of tensors that count writes).
  Swapped(pybind11::object alone, pybind11::function ready)
      : alone_(std::move(alone)), ready_(std::move(ready)) {}
  Swapped(const Swapped&) = delete;
  Swapped& operator=(const Swapped&) = delete;
  ~Swapped() {
    if (inside_.exchange(false)) undo();
  }
  void enter();
  void exit();

  // For Python's garbage collector: the function is a method of the optimizer, which may know this.
  int traverse(visitproc visit, void* arg) const;
  void let_go() { ready_ = pybind11::none(); }

 private:
  void undo() noexcept;

  const pybind11::object alone_;
  pybind11::object ready_;
  pybind11::object exchange_, counted_;  // within the block
  std::atomic<bool> inside_{false};      // of two threads that leave one block one undoes it
};

}  // namespace roofstep
