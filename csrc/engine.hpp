// Many tensors, all cores: what a step does to memory once everything has been checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels.hpp"

namespace roofstep {

// A gradient whose memory is laid out otherwise than its parameter's: dimensions in the order of
// the parameter's memory, outermost first; strides in bytes.
struct Layout {
  std::vector<std::ptrdiff_t> shape, strides;
};

// One L2 norm over the gradients of one or many tensors, and the length to which it is clipped.
struct Norm {
  double limit;
  double value = 0;
};

// What a step does to the parameters of one kind.
struct Settings {
  int rule;  // an index into Kernels::rules, which is the same list for every ISA
  Hyper hyper;
  double scale, clip_min, clip_max;
  bool adapts;                          // by the rule's trust ratio
  std::optional<double> average_decay;  // none: the weights are not averaged
};

// A parameter; one that has no gradient has no size here and no step count.
struct Tensor {
  Dtype dtype;
  bool clear_grad;  // zeroes the gradient in the same pass
  int norm;         // an index, or -1
  std::size_t size;
  void* param;
  void* grad;
  void* states[max_states];
  void* average;              // null: no mean is kept of its weights
  const Layout* grad_layout;  // null: that of the parameter
  const Settings* settings;
  const Prepared* prepared;
  std::int64_t* step_count;
  double* carried;  // null if the rule carries nothing
};

// Clips, decays, updates, averages, and counts the step. Every gradient is one times `grad_scale`,
// by which it is divided first of all.
void step(const Kernels& kernels, const std::vector<Tensor>& tensors, std::vector<Norm>& norms,
          int threads, double grad_scale = 1);

// The norms alone.
void measure(const Kernels& kernels, const std::vector<Tensor>& tensors, std::vector<Norm>& norms,
             int threads);

// What a gradient is multiplied by to be clipped. No epsilon: a gradient at the limit is not
// scaled. A NaN norm makes every gradient NaN.
double clip_factor(const Norm& norm);

// Reads some arrays and rewrites others, in pieces as a step: the roof that it is measured against.
float stream(const Kernels& kernels, const std::vector<float*>& updated,
             const std::vector<float*>& read, std::size_t size, int threads);

}  // namespace roofstep
