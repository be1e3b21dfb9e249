// The Python door of a step: reads and checks everything, then lets the engine work.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "attribute.hpp"
#include "engine.hpp"
#include "overlap.hpp"

namespace roofstep {

// The parameters of an optimizer, as a plan has them: rows (name, parameter, Settings or None, Norm
// or None, tuple of states or None). A parameter is a tensor with `grad`, or an object with `data`
// and `grad`; one without Settings is passed over. The states are those of the rule in its order,
// then the mean of the weights if one is kept; their memory is the optimizer's own, and so it is
// looked at here once, while parameters and gradients are looked at anew in every step.
class Entries {
 public:
  // `counted` are the rows of tensors whose library is to be told what is written, `unscaled` those
  // whose gradient is given and has been divided by the `grad_scale` of a step.
  Entries(pybind11::tuple rows, const std::vector<std::size_t>& counted,
          const std::vector<std::size_t>& unscaled);

  // For Python's garbage collector: a parameter may know the optimizer that has it.
  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(held_.ptr());
    return 0;
  }
  void let_go();

  // Steps every parameter that has a gradient. `gradients` is None, or a tuple that is read in the
  // place of the `grad` attributes, which alone are zeroed by `clear_grad`; `counts` (int64) and
  // `carried` (float64) have a number for each row. Every gradient is divided by `grad_scale`
  // before all else.
  //
  // Returns None when it has stepped: then `records` have been put, and `shown`, pairs of arrays,
  // show. With `skip_nonfinite`, if a gradient that counts in a norm is not finite, nothing is
  // written but zeros into gradients, `skipped` is put, and its row is returned. Else, while states
  // are missing, nothing is written, and the list of the rows that have a gradient but no states is
  // returned.
  //
  // Whatever fails, fails before the first byte is written, with nothing changed.
  pybind11::object step(const std::optional<pybind11::tuple>& gradients,
                        const pybind11::object& counts, const pybind11::object& carried,
                        bool clear_grad, int threads, double grad_scale, bool skip_nonfinite,
                        const pybind11::tuple& records, const pybind11::tuple& shown,
                        const pybind11::tuple& skipped);

 private:
  // What every step looks at, in few lines of the cache: of a thousand small tensors they decide
  // whether all fits.
  struct Row {
    PyObject* parameter;
    const Attribute *data, *grad;  // no `data` of a tensor
    const Settings* settings;      // null: passed over
    const Rule* rule;
    Form form;
    bool lacks_states, has_ring;
  };
  // What it looks at now and then.
  struct Particulars {
    PyObject* name;
    bool counted;
    Array like;  // what the parameter must be for its states; no object if it has none
    Array ring;  // the rule's last state, if it has a slot for each of several steps
  };
  // What parameters of one type have.
  struct Kind {
    bool is_tensor;
    Attribute data, grad;
  };
  struct Found;
  class Held;

  void read(PyObject* row);
  void read_states(PyObject* states, std::size_t i);
  void look(std::size_t i, const Found& found, Held& held);
  void look_at_rows(std::size_t i, const Found& found, const Array& param, Held& held);
  void refuse_overlaps(const Held& held) const;
  pybind11::object count_writes(Held& held, bool parameters) const;

  pybind11::tuple held_;
  std::vector<Row> rows_;
  std::vector<Particulars> particulars_;  // one for each row
  std::vector<Tensor> tensors_;  // one for each row; of what stands in them the states remain
  std::map<PyTypeObject*, Kind> kinds_;  // of the parameters
  std::vector<Norm*> norms_;
  bool counts_any_;
  Extents states_;
  // Filled anew by each step, and kept for their memory.
  std::deque<Layout> layouts_;
  Extents extents_;
};

}  // namespace roofstep
