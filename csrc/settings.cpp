// Reads settings by the names of the rules' fields; prepares the constants of a step once for all.
#include "settings.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dispatch.hpp"

namespace py = pybind11;

namespace roofstep {

namespace {

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

Absent absent_of(const std::string& word) {
  if (word == "refused") return Absent::refused;
  if (word == "moved") return Absent::moved;
  if (word == "resting") return Absent::resting;
  if (word == "left") return Absent::left;
  throw py::value_error("no absent rows are " + word);
}

}  // namespace

Settings make_settings(const std::string& rule, const py::dict& fields, double l1, double l2,
                       double decay, double scale, double clip_min, double clip_max, bool adapts,
                       std::optional<double> average_decay, const std::string& absent) {
  Settings settings{};
  settings.rule = rule_named(rule.c_str());
  if (settings.rule < 0) throw py::value_error("no rule named " + rule);
  const Rule* const found = kernels().rules + settings.rule;
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
  if (average_decay && found->mean) {
    throw py::value_error("rule " + rule + " keeps a mean of its own");
  }
  settings.average_decay = average_decay;
  settings.absent = absent_of(absent);
  return settings;
}

const Prepared* Constants::find(const Key& key, const Settings& settings, const Step& step,
                                PyObject* name) {
  const auto [entry, is_new] = prepared_.try_emplace(key);
  if (is_new) {
    const Dtype dtype = std::get<Dtype>(key);
    require_in_range(settings, dtype, name);
    kernels().rules[settings.rule].prepare[static_cast<int>(dtype)](settings.hyper, step,
                                                                    entry->second);
  }
  return &entry->second;
}

}  // namespace roofstep
