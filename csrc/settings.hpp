// What Python says of one kind of parameter, and what that comes to at one step.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "arrays.hpp"
#include "engine.hpp"

namespace roofstep {

// Takes from `fields` those that the rule names.
Settings make_settings(const std::string& rule, const pybind11::dict& fields, double l1, double l2,
                       double decay, double scale, double clip_min, double clip_max, bool adapts,
                       std::optional<double> average_decay, const std::string& absent);

// The constants of a step: two powers cost as much as a tiny tensor, and nearly all tensors share
// settings and step.
class Constants {
 public:
  // Throws, naming the parameter, if its dtype cannot hold a setting.
  const Prepared* at(const Settings& settings, Dtype dtype, const Step& step, PyObject* name) {
    const Key key{&settings, dtype, step.t, step.carried};
    if (!latest_ || key != latest_key_) {
      latest_ = find(key, settings, step, name);
      latest_key_ = key;
    }
    return latest_;
  }

 private:
  using Key = std::tuple<const Settings*, Dtype, std::int64_t, double>;
  const Prepared* find(const Key& key, const Settings& settings, const Step& step, PyObject* name);

  std::map<Key, Prepared> prepared_;
  Key latest_key_{};
  const Prepared* latest_ = nullptr;
};

}  // namespace roofstep
