// Walks the parameters by the raw CPython API: a pybind11 idiom per tensor would cost more than
// the kernel of a small tensor. Everything is checked here, before the first byte is written.
#include "gather.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <tuple>

#include "arrays.hpp"
#include "dispatch.hpp"
#include "floating_point.hpp"
#include "overlap.hpp"

namespace py = pybind11;

namespace roofstep {

namespace {

// New references, kept until the step returns: without the GIL another thread may drop `p.grad`.
// What is inside the entries is kept by the entries, tuples all the way down.
class Held {
 public:
  explicit Held(std::size_t count) { objects_.reserve(count); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    for (PyObject* object : objects_) Py_DECREF(object);
  }
  PyObject* attribute(PyObject* object, PyObject* name) {
    PyObject* value = PyObject_GetAttr(object, name);
    if (!value) throw py::error_already_set();
    objects_.push_back(value);
    return value;
  }

 private:
  std::vector<PyObject*> objects_;
};

// Throws if the parameter's dtype cannot hold a setting: infinity times a zero would be NaN.
void require_in_range(const Settings& settings, Dtype dtype, PyObject* name) {
  const auto check = [&](const char* setting, double value) {
    if (std::isfinite(dtype == Dtype::f32 ? static_cast<float>(value) : value)) return;
    throw py::value_error(std::string(setting) + ": expected a number that the dtype of " +
                          Subject{"parameter ", name}.text() + ", " + name_of(dtype) +
                          ", can hold, got " + py::repr(py::float_(value)).cast<std::string>() +
                          "; make it smaller");
  };
  const Rule& rule = kernels().rules[settings.rule];
  for (int i = 0; i < rule.field_count; ++i) check(rule.fields[i], settings.hyper.fields[i]);
  check("learning_rate", settings.hyper.learning_rate);
  check("weight_decay", settings.hyper.l1 + settings.hyper.l2);
  check("weight_decay", settings.hyper.decay);
  check("rescale_grad", settings.scale);
}

// Two powers cost as much as a tiny tensor, and nearly all tensors share settings and step.
class Constants {
 public:
  const Prepared* at(const Settings& settings, Dtype dtype, const Step& step, PyObject* name) {
    const Key key{&settings, dtype, step.t, step.carried};
    if (!latest_ || key != latest_key_) {
      const auto [entry, is_new] = prepared_.try_emplace(key);
      if (is_new) {
        require_in_range(settings, dtype, name);
        kernels().rules[settings.rule].prepare[static_cast<int>(dtype)](settings.hyper, step,
                                                                        entry->second);
      }
      latest_key_ = key;
      latest_ = &entry->second;
    }
    return latest_;
  }

 private:
  using Key = std::tuple<const Settings*, Dtype, std::int64_t, double>;
  std::map<Key, Prepared> prepared_;
  Key latest_key_{};
  const Prepared* latest_ = nullptr;
};

// One entry of the optimizer's list, see gather_and_step.
struct Entry {
  PyObject *name, *parameter, *settings, *norm, *states;

  explicit Entry(PyObject* object) {
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 5) {
      throw py::type_error("an entry of a step is a tuple of five");
    }
    PyObject** fields[] = {&name, &parameter, &settings, &norm, &states};
    for (int i = 0; i < 5; ++i) *fields[i] = PyTuple_GET_ITEM(object, i);
  }
};

int state_count(const Settings& settings) {
  return kernels().rules[settings.rule].state_count + settings.average_decay.has_value();
}

// How many slots the rule's last state has; 0 if it is no ring.
std::size_t ring_size(const Settings& settings) {
  const Rule& rule = kernels().rules[settings.rule];
  for (int i = 0; rule.ring && i < rule.field_count; ++i) {
    if (!std::strcmp(rule.fields[i], rule.ring)) {
      return static_cast<std::size_t>(settings.hyper.fields[i]);
    }
  }
  return 0;
}

void read_states(const Entry& entry, const Settings& settings, std::int64_t t, const Array& param,
                 Tensor& tensor, std::vector<Span>& spans) {
  const Rule& rule = kernels().rules[settings.rule];
  const int count = state_count(settings);
  if (!PyTuple_Check(entry.states) || PyTuple_GET_SIZE(entry.states) != count) {
    throw py::type_error(std::string("rule ") + rule.name + " takes a tuple of " +
                         std::to_string(count) + " states");
  }
  const std::size_t slots = ring_size(settings);
  for (int s = 0; s < count; ++s) {
    Array state = view_parameter(PyTuple_GET_ITEM(entry.states, s), {state_role, entry.name});
    add_span(spans, state, state_role, entry.name, true);
    if (slots && s == rule.state_count - 1) {
      if (state.ndim == 0 || static_cast<std::size_t>(state.shape[0]) != slots) {
        throw py::type_error(std::string("rule ") + rule.name + " takes a last state of " +
                             std::to_string(slots) + " slots");
      }
      state = slot_of(state, static_cast<std::size_t>(t - 1) % slots);
    }
    match_states(param, state, {parameter_role, entry.name});
    (s < rule.state_count ? tensor.states[s] : tensor.average) = state.data;
  }
}

// The index of a norm among those of this step; entries without a gradient reset theirs to 0 too.
class Norms {
 public:
  int index_of(PyObject* object) {
    if (object == Py_None) return -1;
    if (object != latest_) {
      latest_ = object;
      const auto [entry, is_new] = indices_.try_emplace(object, static_cast<int>(bound_.size()));
      if (is_new) {
        bound_.push_back(py::handle(object).cast<Norm*>());
        norms.push_back({bound_.back()->limit});
      }
      latest_index_ = entry->second;
    }
    return latest_index_;
  }
  void publish() const {
    for (std::size_t i = 0; i < norms.size(); ++i) bound_[i]->value = norms[i].value;
  }
  std::vector<Norm> norms;

 private:
  std::map<PyObject*, int> indices_;
  std::vector<Norm*> bound_;
  PyObject* latest_ = nullptr;
  int latest_index_ = -1;
};

}  // namespace

Settings make_settings(const std::string& rule, const py::dict& fields, double l1, double l2,
                       double decay, double scale, double clip_min, double clip_max, bool adapts,
                       std::optional<double> average_decay) {
  Settings settings{};
  const Kernels& table = kernels();
  const auto found = std::find_if(table.rules, table.rules + table.rule_count,
                                  [&](const Rule& r) { return rule == r.name; });
  if (found == table.rules + table.rule_count) throw py::value_error("no rule named " + rule);
  settings.rule = static_cast<int>(found - table.rules);
  for (int i = 0; i < found->field_count; ++i) {
    settings.hyper.fields[i] = fields[found->fields[i]].cast<double>();
  }
  settings.hyper.learning_rate = std::numeric_limits<double>::quiet_NaN();
  settings.hyper.l1 = l1;
  settings.hyper.l2 = l2;
  settings.hyper.decay = decay;
  // The gradient is scaled before it is clipped, in one multiplication with a norm's factor.
  settings.scale = scale;
  settings.clip_min = std::min(scale * clip_min, scale * clip_max);
  settings.clip_max = std::max(scale * clip_min, scale * clip_max);
  if (adapts && !found->trust) throw py::value_error("rule " + rule + " has no trust ratio");
  settings.adapts = adapts;
  settings.average_decay = average_decay;
  return settings;
}

std::vector<std::size_t> gather_and_step(const py::tuple& entries,
                                         const std::optional<py::tuple>& gradients,
                                         const py::object& counts, const py::object& carried,
                                         bool clear_grad, int threads) {
  static PyObject* const data_attribute = PyUnicode_InternFromString("data");
  static PyObject* const grad_attribute = PyUnicode_InternFromString("grad");
  const DefaultFloatingPoint mode;

  const std::size_t entry_count = entries.size();
  std::int64_t* const step_counts = view_row<std::int64_t>(counts.ptr(), entry_count);
  double* const carried_numbers = view_row<double>(carried.ptr(), entry_count);
  if (gradients && gradients->size() != entry_count) {
    throw py::value_error("a step takes one gradient, or None, for each entry");
  }

  Held held(2 * entry_count);
  Constants constants;
  Norms norms;
  std::vector<Tensor> tensors;
  std::deque<Layout> layouts;
  std::vector<Span> spans;
  std::vector<std::size_t> missing;
  std::vector<py::object> cleared_after;  // gradients in whose place another is read
  tensors.reserve(entry_count);
  spans.reserve(4 * entry_count);
  PyObject* settings_object = nullptr;
  const Settings* settings = nullptr;

  for (std::size_t i = 0; i < entry_count; ++i) {
    const Entry entry(PyTuple_GET_ITEM(entries.ptr(), i));
    const int norm = norms.index_of(entry.norm);
    PyObject* own_grad =
        gradients && !clear_grad ? Py_None : held.attribute(entry.parameter, grad_attribute);
    PyObject* grad_object = gradients ? PyTuple_GET_ITEM(gradients->ptr(), i) : own_grad;
    const Subject param_subject{parameter_role, entry.name};
    const Subject grad_subject{gradient_role, entry.name};
    const bool clears_it =
        clear_grad && (grad_object == own_grad || same_tensor(grad_object, own_grad, grad_subject));
    PyObject* param_object = is_tensor(entry.parameter)
                                 ? entry.parameter
                                 : held.attribute(entry.parameter, data_attribute);
    if (clear_grad && !clears_it && own_grad != Py_None && entry.settings != Py_None) {
      const Array own = view(own_grad, grad_subject);
      require_clearable(own, grad_subject);
      add_span(spans, own, gradient_role, entry.name, true);
      cleared_after.push_back(as_numpy(own_grad, grad_subject));
    }
    if (grad_object == Py_None || entry.settings == Py_None) {
      // It is not written, and nothing else may write into it.
      add_span(spans, view(param_object, param_subject), parameter_role, entry.name, false);
      continue;
    }
    if (entry.settings != settings_object) {
      settings_object = entry.settings;
      settings = py::handle(settings_object).cast<const Settings*>();
    }

    const Array param = view_parameter(param_object, param_subject);
    const Array grad = view(grad_object, grad_subject);
    match(grad, param, grad_subject);
    if (clears_it) require_clearable(grad, grad_subject);
    add_span(spans, param, parameter_role, entry.name, true);
    add_span(spans, grad, gradient_role, entry.name, clears_it);

    const Rule& rule = kernels().rules[settings->rule];
    Step now{step_counts[i] + 1, settings->hyper.learning_rate, 1};
    Tensor tensor{};
    if (state_count(*settings) && entry.states == Py_None) {
      missing.push_back(i);
    } else if (state_count(*settings)) {
      read_states(entry, *settings, now.t, param, tensor, spans);
    }
    tensor.param = param.data;
    tensor.clear_grad = clears_it;
    set_gradient(tensor, grad, param, layouts);
    if (rule.carried) {
      now.carried = carried_numbers[i];
      tensor.carried = carried_numbers + i;
      tensor.carried_next = rule.carry(settings->hyper, now);
    }
    tensor.step_count = step_counts + i;
    tensor.rule = &rule;
    tensor.hyper = &settings->hyper;
    tensor.prepared = constants.at(*settings, param.dtype, now, entry.name);
    tensor.adapts = settings->adapts;
    tensor.average_decay = settings->average_decay.value_or(0);
    tensor.scale = settings->scale;
    tensor.clip_min = settings->clip_min;
    tensor.clip_max = settings->clip_max;
    tensor.norm = norm;
    tensors.push_back(tensor);
  }
  refuse_overlaps(spans);
  if (!missing.empty()) return missing;

  {
    const Kernels& table = kernels();
    const py::gil_scoped_release release;
    step(table, tensors, norms.norms, threads);
  }
  for (const py::object& own : cleared_after) own.attr("fill")(0);
  norms.publish();
  return missing;
}

}  // namespace roofstep
