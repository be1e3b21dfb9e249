// Walks the parameters by the raw CPython API: a pybind11 idiom per tensor would cost more than
// the kernel of a small tensor. Everything is checked here, before the first byte is written.
#include "gather.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "dispatch.hpp"
#include "effects.hpp"
#include "floating_point.hpp"
#include "rows.hpp"
#include "settings.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace roofstep {

namespace {

// How many slots the rule's last state has; 0 if it is no ring.
int ring_size(const Settings& settings) {
  const Rule& rule = kernels().rules[settings.rule];
  for (int i = 0; rule.ring && i < rule.field_count; ++i) {
    if (!std::strcmp(rule.fields[i], rule.ring)) return static_cast<int>(settings.hyper.fields[i]);
  }
  return 0;
}

// Whether a mean of the weights is kept beside the rule's states.
bool keeps_mean(const Settings& settings) {
  return settings.average_decay || kernels().rules[settings.rule].mean;
}

// What a float32 gradient would be multiplied by instead must be a number > 0 there, with all its
// digits.
void require_scale(double grad_scale) {
  const float unscale = static_cast<float>(1 / grad_scale);
  if (unscale > 0 && std::isnormal(unscale)) return;
  throw py::value_error(
      "grad_scale: expected a number > 0 whose inverse is a normal number of float32, got " +
      py::repr(py::float_(grad_scale)).cast<std::string>() +
      "; pass the factor that the loss was multiplied by");
}

// In place of pybind11's, which make a RuntimeError of a lack of memory.
py::list new_list(std::size_t size) {
  PyObject* const list = PyList_New(static_cast<Py_ssize_t>(size));
  if (!list) throw py::error_already_set();
  return py::reinterpret_steal<py::list>(list);
}

py::object new_int(std::size_t value) {
  PyObject* const made = PyLong_FromSize_t(value);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

// Throws if a tensor has been put where the parameter has an array.
void refuse_as_data(py::handle parameter, const Subject& subject) {
  const py::object holds_array = attribute_of(parameter, "holds_array");
  if (!holds_array.is(py::handle(Py_True))) return;
  throw py::type_error(subject.text() +
                       ": expected a NumPy array as its data, got a tensor; give the tensor to the "
                       "optimizer as it is, as in parameters=[tensor]");
}

template <class Visit>
void for_each_state(PyObject* row, const Visit& visit) {
  PyObject* states = PyTuple_GET_ITEM(row, 4);
  if (states == Py_None) return;
  for (Py_ssize_t s = 0; s < PyTuple_GET_SIZE(states); ++s) visit(PyTuple_GET_ITEM(states, s));
}

}  // namespace

// What one parameter holds in this step. A parameter that is a tensor is its own array.
struct Entries::Found {
  PyObject *param, *own_grad, *grad;  // the last is one of `gradients`, or own_grad
  bool stepped, clears_own, clears_other;
};

// New references, kept until the step returns: without the GIL another thread may drop `p.grad`.
class Entries::Held {
 public:
  explicit Held(std::size_t count) { rows_.reserve(count); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    for (const Found& found : rows_) {
      Py_XDECREF(found.param);
      Py_XDECREF(found.own_grad);
    }
  }
  Found& add() { return rows_.emplace_back(); }
  const std::vector<Found>& rows() const { return rows_; }
  std::vector<Found>& rows() { return rows_; }

  // The values of sparse gradients, by the positions of their parameters.
  std::map<std::size_t, py::object> values;
  PyObject* gradient(std::size_t i) const {
    const auto sparse = values.empty() ? values.end() : values.find(i);
    return sparse == values.end() ? rows_[i].grad : sparse->second.ptr();
  }

 private:
  std::vector<Found> rows_;
};

Entries::Entries(py::tuple rows, const std::vector<std::size_t>& counted,
                 const std::vector<std::size_t>& unscaled)
    : held_(std::move(rows)) {
  rows_.reserve(held_.size());
  particulars_.resize(held_.size());
  tensors_.reserve(held_.size());
  for (const py::handle row : held_) read(row.ptr());
  for (const std::size_t i : counted) particulars_.at(i).counted = true;
  for (const std::size_t i : unscaled) tensors_.at(i).unscaled = true;
  counts_any_ = !counted.empty();
  states_.join();
}

void Entries::let_go() {
  rows_.clear();
  tensors_.clear();
  held_ = py::tuple();
}

void Entries::read(PyObject* tuple) {
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 5) {
    throw py::type_error("a row of a step's entries is a tuple of five");
  }
  Row& row = rows_.emplace_back();
  Tensor& tensor = tensors_.emplace_back();
  particulars_[rows_.size() - 1].name = PyTuple_GET_ITEM(tuple, 0);
  row.parameter = PyTuple_GET_ITEM(tuple, 1);
  PyObject* const settings = PyTuple_GET_ITEM(tuple, 2);
  PyObject* const norm = PyTuple_GET_ITEM(tuple, 3);

  PyTypeObject* const type = Py_TYPE(row.parameter);
  auto found = kinds_.find(type);
  if (found == kinds_.end()) {
    const Kind made{is_tensor(row.parameter), {type, interned.data}, {type, interned.grad}};
    found = kinds_.emplace(type, made).first;
  }
  const Kind& kind = found->second;
  row.data = kind.is_tensor ? nullptr : &kind.data;
  row.grad = &kind.grad;

  tensor.norm = -1;
  if (norm != Py_None) {
    Norm* const bound = py::handle(norm).cast<Norm*>();
    if (norms_.empty() || norms_.back() != bound) {  // nearly all share one
      const auto place = std::find(norms_.begin(), norms_.end(), bound);
      tensor.norm = static_cast<int>(place - norms_.begin());
      if (place == norms_.end()) norms_.push_back(bound);
    } else {
      tensor.norm = static_cast<int>(norms_.size()) - 1;
    }
  }
  if (settings == Py_None) return;
  row.settings = tensor.settings = py::handle(settings).cast<const Settings*>();
  row.rule = &kernels().rules[row.settings->rule];
  read_states(PyTuple_GET_ITEM(tuple, 4), rows_.size() - 1);
}

void Entries::read_states(PyObject* states, std::size_t i) {
  Row& row = rows_[i];
  Particulars& own = particulars_[i];
  Tensor& tensor = tensors_[i];
  const int count = row.rule->state_count + keeps_mean(*row.settings);
  row.lacks_states = count && states == Py_None;
  if (!count || row.lacks_states) return;
  if (!PyTuple_Check(states) || PyTuple_GET_SIZE(states) != count) {
    throw py::type_error(std::string("rule ") + row.rule->name + " takes a tuple of " +
                         std::to_string(count) + " states");
  }
  const int slots = ring_size(*row.settings);
  row.has_ring = slots > 0;
  for (int s = 0; s < count; ++s) {
    Array state = view_parameter(PyTuple_GET_ITEM(states, s), {state_role, own.name});
    states_.add(state);
    if (row.has_ring && s == row.rule->state_count - 1) {
      if (state.ndim == 0 || state.shape[0] != slots) {
        throw py::type_error(std::string("rule ") + row.rule->name + " takes a last state of " +
                             std::to_string(slots) + " slots");
      }
      own.ring = state;
      state = slot_of(state, 0);
    }
    if (own.like.object) {
      match_states(state, own.like, {state_role, own.name});
    } else {
      own.like = state;
    }
    (s < row.rule->state_count ? tensor.states[s] : tensor.average) = state.data;
  }
}

// Everything that a parameter and its gradient are checked for, and what the engine is told of
// them.
void Entries::look(std::size_t i, const Found& found, Held& held) {
  rows_[i].form = {};
  const Particulars& own = particulars_[i];
  Tensor& tensor = tensors_[i];
  const Subject param_subject{parameter_role, own.name};
  const Subject grad_subject{gradient_role, own.name};
  if (rows_[i].data && is_tensor(found.param)) refuse_as_data(rows_[i].parameter, param_subject);
  const Array param = view_parameter(found.param, param_subject);
  Array grad;
  const bool dense = view_if_dense(found.grad, grad_subject, grad);
  if (dense) match(grad, param, grad_subject);
  if (dense && found.clears_own) require_clearable(grad, grad_subject);
  if (own.like.object) match_states(param, own.like, param_subject);
  extents_.add(param);
  tensor.param = param.data;
  if (!dense) return look_at_rows(i, found, param, held);
  extents_.add(grad);
  set_gradient(tensor, grad, param, layouts_);
  rows_[i].form = form_of(param, grad);
}

void Entries::look_at_rows(std::size_t i, const Found& found, const Array& param, Held& held) {
  const Subject subject{gradient_role, particulars_[i].name};
  const SparseGradient grad(found.grad, subject);
  if (found.clears_own) {
    refuse(subject, "a dense one, to be zeroed in the pass", "a sparse one",
           "step without clear_grad, and drop it with optimizer.clear_grad()");
  }
  held.values[i] = grad.values();
  extents_.add(grad.view());
  grad.put(tensors_[i], param, layouts_);
}

void Entries::refuse_overlaps(const Held& held) const {
  std::vector<Span> spans;
  for (std::size_t i = 0; i < held.rows().size(); ++i) {
    const Found& found = held.rows()[i];
    PyObject* const name = particulars_[i].name;
    const Array param = view(found.param, {parameter_role, name});
    // What is not stepped is not written, and nothing else may write into it.
    add_span(spans, param, parameter_role, name, found.stepped);
    if (found.clears_other) {
      add_span(spans, view(found.own_grad, {gradient_role, name}), gradient_role, name, true);
    }
    if (!found.stepped) continue;
    const Array grad = view(held.gradient(i), {gradient_role, name});
    add_span(spans, grad, gradient_role, name, found.clears_own);
    for_each_state(PyTuple_GET_ITEM(held_.ptr(), i), [&](PyObject* state) {
      add_span(spans, view(state, {state_role, name}), state_role, name, true);
    });
  }
  roofstep::refuse_overlaps(spans);
}

// Tells the libraries that count writes what is written next: these gradients that are zeroed, and
// perhaps the parameters. Returns what keeps them.
py::object Entries::count_writes(Held& held, bool parameters) const {
  if (!counts_any_) return py::none();
  std::vector<PyObject**> found;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    Found& row = held.rows()[i];
    if (!particulars_[i].counted) continue;
    if (row.stepped && parameters) found.push_back(&row.param);
    if (row.clears_own || row.clears_other) found.push_back(&row.own_grad);
  }
  const py::list list = new_list(found.size());
  // The references are handed on: each of these objects is far away in memory.
  for (std::size_t k = 0; k < found.size(); ++k) {
    PyObject* const object = std::exchange(*found[k], nullptr);
    PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(k), object);
  }
  tell_of_writes(list);
  return list;
}

py::object Entries::step(const std::optional<py::tuple>& gradients, const py::object& counts,
                         const py::object& carried, bool clear_grad, int threads, double grad_scale,
                         bool skip_nonfinite, const py::tuple& records, const py::tuple& shown,
                         const py::tuple& skipped) {
  const DefaultFloatingPoint mode;
  require_scale(grad_scale);
  std::int64_t* const step_counts = view_row<std::int64_t>(counts.ptr(), rows_.size());
  double* const carried_numbers = view_row<double>(carried.ptr(), rows_.size());
  if (gradients && gradients->size() != rows_.size()) {
    throw py::value_error("a step takes one gradient, or None, for each row");
  }

  Held held(rows_.size());
  Constants constants;
  std::vector<std::size_t> missing;
  std::vector<py::object> cleared_after;  // gradients in whose place another is read
  std::vector<Tensor> cleared_tensors;
  layouts_.clear();
  extents_.clear();
  extents_.add(states_);

  for (std::size_t i = 0; i < rows_.size(); ++i) {
    Row& row = rows_[i];
    Tensor& tensor = tensors_[i];
    Found& found = held.add();
    if (!gradients || clear_grad) found.own_grad = row.grad->of(row.parameter);
    found.param = row.data ? row.data->of(row.parameter) : Py_NewRef(row.parameter);
    found.grad = gradients ? PyTuple_GET_ITEM(gradients->ptr(), i) : found.own_grad;
    found.stepped = found.grad != Py_None && row.settings;
    if (clear_grad && row.settings && found.own_grad != Py_None) {
      found.clears_own =
          found.grad == found.own_grad ||
          same_tensor(found.grad, found.own_grad, {gradient_role, particulars_[i].name});
      found.clears_other = !found.clears_own;
    }
    if (found.clears_other) {
      const Subject subject{gradient_role, particulars_[i].name};
      const Array own = view(found.own_grad, subject);
      require_clearable(own, subject);
      extents_.add(own);
      cleared_after.push_back(as_numpy(found.own_grad, subject));
      Array in_order = own;
      in_order.strides = nullptr;
      in_order.c_contiguous = true;
      set_gradient(cleared_tensors.emplace_back(), own, in_order, layouts_);
      cleared_tensors.back().clear_grad = true;
    }
    if (!found.stepped) {
      tensor.size = 0;
      tensor.step_count = nullptr;
      tensor.grad_layout = nullptr;  // that of an earlier step is no more
      extents_.add(view(found.param, {parameter_role, particulars_[i].name}));
      continue;
    }
    if (row.lacks_states) missing.push_back(i);

    if (row.form.descr && fits(row.form, found.param, found.grad)) {
      tensor.param = elements_of(found.param);
      tensor.grad = elements_of(found.grad);
      tensor.grad_layout = nullptr;
      tensor.size = row.form.size;
      extents_.add(tensor.param, row.form.bytes);
      extents_.add(tensor.grad, row.form.bytes);
    } else {
      look(i, found, held);
    }
    if (step_counts[i] < 0) {
      refuse({"the step count of parameter ", particulars_[i].name}, "a whole number >= 0",
             std::to_string(step_counts[i]), "correct the state it was read from");
    }
    Step now{step_counts[i] + 1, row.settings->hyper.learning_rate, 1};
    if (row.has_ring) {
      const Array& ring = particulars_[i].ring;
      const std::size_t slot = static_cast<std::size_t>((now.t - 1) % ring.shape[0]);
      tensor.states[row.rule->state_count - 1] = slot_of(ring, slot).data;
    }
    if (row.rule->carried) {
      now.carried = carried_numbers[i];
      tensor.carried = carried_numbers + i;
    }
    tensor.clear_grad = found.clears_own;
    tensor.step_count = step_counts + i;
    tensor.prepared = constants.at(*row.settings, tensor.dtype, now, particulars_[i].name);
  }
  if (!extents_.disjoint()) refuse_overlaps(held);
  std::vector<Norm> norms;
  for (const Norm* norm : norms_) norms.push_back({norm->limit});
  const auto lacking = [&] {
    const py::list list = new_list(missing.size());
    for (std::size_t k = 0; k < missing.size(); ++k) list[k] = new_int(missing[k]);
    return list;
  };
  if (!missing.empty() && !skip_nonfinite) return lacking();
  Pass pass(kernels(), tensors_, norms, threads, grad_scale);
  Records told(records);
  std::vector<Shown> rows_shown;
  for (const py::handle pair : shown) {
    const auto [floats, numbers] = py::cast<std::pair<py::object, py::object>>(pair);
    rows_shown.emplace_back(floats.ptr(), numbers.ptr(), rows_.size());
  }
  if (!norms.empty()) {
    std::ptrdiff_t found;
    {
      const WithoutGil released;
      found = pass.measure();
    }
    if (skip_nonfinite && found >= 0) {
      const py::object row = new_int(static_cast<std::size_t>(found));
      Records told_instead(skipped);
      const py::object kept = count_writes(held, false);
      told_instead.put();
      clear_gradients(tensors_);
      clear_gradients(cleared_tensors);
      return row;
    }
  }
  if (!missing.empty()) return lacking();  // now that they are wanted
  const py::object kept = count_writes(held, true);
  // First, as the records may show norms to other threads.
  std::vector<Norm> others = norms;
  const auto exchange_norms = [&] {
    for (std::size_t k = 0; k < others.size(); ++k) {
      std::swap(norms_[k]->value, others[k].value);
      std::swap(norms_[k]->finite, others[k].finite);
    }
  };
  exchange_norms();
  try {
    told.put();
  } catch (...) {
    exchange_norms();
    throw;
  }
  // From here on nothing can fail, and no line of Python runs.
  {
    const WithoutGil released;
    pass.write();
  }
  clear_gradients(cleared_tensors);
  for (const Shown& row : rows_shown) {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (tensors_[i].step_count) row.show(i);
    }
  }
  return py::none();
}

}  // namespace roofstep
