// Many tensors, all cores: what a step does to memory once everything has been checked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels.hpp"

namespace roofstep {

// Which rows of a parameter a sparse gradient has; the others are zeros. A row is what the first
// dimension counts, and the parameter is in C order.
struct Rows {
  std::size_t size, width;             // elements of the parameter, and of a row
  std::vector<std::size_t> numbers;    // of the rows, ascending, each once
  std::vector<std::size_t> positions;  // of their values, row by row; those of one row are added up
  std::vector<std::size_t> first;      // where in these each row begins, and the end of the last
  std::vector<std::size_t> blocks;     // that have elements in these rows, if their norm is taken
};

// A gradient whose memory is laid out otherwise than its parameter's: dimensions in the order of
// the parameter's memory, or of the rows' values, outermost first; strides in bytes.
struct Layout {
  std::vector<std::ptrdiff_t> shape, strides;
  std::optional<Rows> rows;  // those of a sparse gradient
};

// What a sparse gradient does to the rows that it does not have.
enum class Absent {
  refused,  // there may be none: the gradient must be dense
  moved,    // what a gradient of zeros does
  resting,  // the same, which without decay is nothing
  left      // nothing, decay included
};

// A number that any thread may read while a step writes it.
template <class T>
class Told {
 public:
  Told(T value) : value_(value) {}
  Told(const Told& other) : Told(T(other)) {}
  Told& operator=(const Told& other) {
    value_.store(other, std::memory_order_relaxed);
    return *this;
  }
  operator T() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<T> value_;
};

// One L2 norm over the gradients of one or many tensors, and the length to which it is clipped.
struct Norm {
  double limit;
  Told<double> value = 0.0;  // infinity, too, where a double has no room for it
  Told<bool> finite = true;  // whether every gradient is
};

// What a step does to the parameters of one kind.
struct Settings {
  int rule;  // an index into Kernels::rules, which is the same list for every ISA
  Hyper hyper;
  double scale, clip_min, clip_max;
  bool adapts;                          // by the rule's trust ratio
  std::optional<double> average_decay;  // none: the weights are not averaged
  Absent absent;
};

// A parameter; one that has no gradient has no size here and no step count. Where the rows that a
// sparse gradient does not have are not visited, the size is that of the rows which it has.
struct Tensor {
  Dtype dtype;
  bool clear_grad;  // zeroes the gradient in the same pass
  bool unscaled;    // the gradient has been divided by the step's `grad_scale` already
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

// A step: clips, decays, updates, averages, and counts. Every gradient is one times `grad_scale`,
// by which it is divided first of all, unless it has been. It is made with all the memory that it
// takes, and thus what follows cannot fail.
class Pass {
 public:
  Pass(const Kernels& kernels, std::vector<Tensor>& tensors, std::vector<Norm>& norms, int threads,
       double grad_scale = 1);
  ~Pass();
  // Takes the norms; the first tensor whose gradient counts in one and is not finite, or -1.
  std::ptrdiff_t measure() noexcept;
  // The rest, with the norms if they have not been taken.
  void write() noexcept;

 private:
  struct Memory;
  const Kernels& kernels_;
  std::vector<Tensor>& tensors_;
  std::vector<Norm>& norms_;
  const double unscale_;
  bool measured_ = false;
  const std::unique_ptr<Memory> memory_;
};

// Zeroes the gradients that a step would zero, and does nothing else.
void clear_gradients(const std::vector<Tensor>& tensors) noexcept;

// What a gradient is multiplied by to be clipped. No epsilon: a gradient at the limit is not
// scaled. A NaN norm makes every gradient NaN.
double clip_factor(const Norm& norm);

// Reads some arrays and rewrites others, in pieces as a step: the roof that it is measured against.
float stream(const Kernels& kernels, const std::vector<float*>& updated,
             const std::vector<float*>& read, std::size_t size, int threads);

}  // namespace roofstep
