// The one way in for sparse gradients: which rows they have, or a refusal that says what to do.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <deque>
#include <optional>

#include "arrays.hpp"

namespace roofstep {

// A gradient of which only some rows are there, as Python reads it; see roofstep/tensors.py.
class SparseGradient {
 public:
  // Throws as `view` if the object is none.
  SparseGradient(PyObject* gradient, const Subject& subject);

  // An array or a tensor: for each row number the elements of that row.
  const pybind11::object& values() const { return values_; }
  Array view() const;

  // Tells the engine of it. Throws, before it has changed anything, unless it may be stepped with:
  // the tensor has its settings and states already.
  void put(Tensor& tensor, const Array& param, std::deque<Layout>& layouts) const;

 private:
  void check(const Settings& settings, const Array& param) const;
  Rows rows_of(const Array& param, bool measured) const;

  Subject subject_;
  pybind11::object numbers_, values_;
  std::optional<std::size_t> height_;
};

}  // namespace roofstep
