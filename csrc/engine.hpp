// Many tensors, all cores: what a step does to memory once everything has been checked.
#pragma once

#include <cstddef>
#include <cstdint>
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

// A parameter that has a gradient.
struct Tensor {
  Dtype dtype;
  std::size_t size;
  void* param;
  void* grad;
  void* states[max_states];
  const Layout* grad_layout;  // null: that of the parameter
  bool clear_grad;            // zeroes the gradient in the same pass
  const Rule* rule;
  const Hyper* hyper;
  const Prepared* prepared;
  bool adapts;    // by the rule's trust ratio
  void* average;  // null: its weights are not averaged
  double average_decay;
  double scale, clip_min, clip_max;
  int norm;  // an index, or -1
  std::int64_t* step_count;
  double* carried;  // null if the rule carries nothing
  double carried_next;
};

// Clips, decays, updates, averages, and counts the step.
void step(const Kernels& kernels, const std::vector<Tensor>& tensors, std::vector<Norm>& norms,
          int threads);

// The norms alone.
void measure(const Kernels& kernels, const std::vector<Tensor>& tensors, std::vector<Norm>& norms,
             int threads);

// What a gradient is multiplied by to be clipped. No epsilon: a gradient at the limit is not
// scaled. A NaN norm makes every gradient NaN.
double clip_factor(const Norm& norm);

// Reads some arrays and rewrites others, in pieces as a step: the roof that it is measured against.
float stream(const Kernels& kernels, const std::vector<float*>& updated,
             const std::vector<float*>& read, std::size_t size, int threads);

// The version of OpenMP as a date, such as 201511; 0 in a build without OpenMP.
int openmp_version();

// How many threads OpenMP would use: CPU affinity and OMP_NUM_THREADS are in it.
int max_threads();

// Lets the pool of threads go before a fork: a child would wait for threads that it does not have.
void survive_fork();

}  // namespace roofstep
