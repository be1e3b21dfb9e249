// The seam between the engine and the kernels: plain structs, and one table of functions per ISA.
#pragma once

#include <cstddef>
#include <cstdint>

namespace roofstep {

constexpr int max_fields = 8;
constexpr int max_states = 4;

// The unit of the norm: its shape is part of the promised bits, so it never changes.
constexpr std::size_t block_size = 4096;

// Lane j of a block adds up the squares of its elements j, j + 64, ...; the lanes are then added as
// a tree. The shape is the same for every ISA and however many blocks are summed side by side, and
// so are the bits.
constexpr std::size_t lanes = 64;

enum class Dtype { f32, f64 };
constexpr int dtypes = 2;

// What a trust ratio measures beside the parameter, in a pass of its own before the update.
enum class Trust { none, gradient, update };

// The constants of one rule at one step, in the parameter's dtype: a closure behind a plain face.
struct Prepared {
  void (*loop)(const Prepared&, const struct Run&);
  // Writes down what the trust ratio measures, and nothing else; null for rules without one.
  void (*measure)(const Prepared&, const struct Run&);
  double rate, l1, l2, decay;
  double carried;  // what the rule carries over from this step, if it carries anything
  double weight;   // of the new value in the rule's own mean, if it has one
  alignas(16) unsigned char closure[128];
};

// What a rule is told; `fields` stand in the order of the rule's own names.
struct Hyper {
  double fields[max_fields];
  double learning_rate;
  double l1, l2;  // coupled decay: l1 * sign(p) or l2 * p is added to the gradient
  double decay;   // decoupled decay: decay * p is added to the direction
};

// Where a parameter is in its training.
struct Step {
  std::int64_t t;  // 1 for the first update
  double learning_rate;
  double carried;  // what the rule has carried over from step to step, see Rule::carried
};

// A run of n adjacent elements of one parameter, its gradient and its states.
struct Run {
  void* param;
  const void* grad;
  void* states[max_states];
  std::size_t n;
  double scale, clip_min, clip_max;
  double trust;    // the ratio, of a rule that has one: a factor on the gradient or on the update
  void* measured;  // room for n elements, to be filled by Prepared::measure
  std::size_t fetch_ahead;  // see dispatch.hpp
};

// The sum of squares of one block, being value * 2**(1200 * exponent): float64 has no room for the
// squares of its own largest and smallest numbers.
struct BlockSum {
  double value;
  int exponent;
};

struct Rule {
  const char* name;
  int field_count, state_count;
  const char* fields[max_fields];
  const char* states[max_states];
  // The name of the one number per parameter that has no closed form in t, or nullptr; it begins
  // with 1 unless Python has a better value, and Prepared has its value after a step.
  const char* carried;
  // The name of the field that says how many slots the last state has, or nullptr: one slot of it
  // is the state of an update, the next one that of the next.
  const char* ring;
  // The name of the running mean of the parameter that the rule itself asks for, or nullptr: an
  // array beside the states.
  const char* mean;
  // The trust ratio for the L2 norms of the parameter and of what is measured, or nullptr.
  double (*trust)(const Hyper&, double param, double measured);
  void (*prepare[dtypes])(const Hyper&, const Step&, Prepared&);
};

// The most arrays that a streaming loop can update and read.
constexpr int most_updated = 6, most_read = 4;

struct Kernels {
  const char* isa;
  int rule_count;
  const Rule* rules;
  // One sum for each block of n adjacent elements.
  void (*sum_squares[dtypes])(const void* values, std::size_t n, std::size_t fetch_ahead,
                              BlockSum* sums);
  // average += weight * (values - average); of weight 1 the values themselves.
  void (*average[dtypes])(void* average, const void* values, std::size_t n, double weight);
  // The traffic of an update and hardly any arithmetic, by the counts of arrays.
  float (*stream[most_updated + 1][most_read + 1])(float* const* updated, float* const* read,
                                                   std::size_t n, std::size_t fetch_ahead);
};

}  // namespace roofstep
