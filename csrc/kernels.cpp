// The only loop: load, clip, decay, rule, store. Compiled once per ISA (ROOFSTEP_ISA names it).
#include "kernels.hpp"

#include <new>
#include <type_traits>
#include <utility>

namespace roofstep {
namespace ROOFSTEP_ISA {

#include "arithmetic.hpp"
#include "fetch.hpp"
#include "rules.hpp"
#include "stream.hpp"

enum class Coupled { none, l2, l1 };

template <bool decoupled, class T>
[[gnu::always_inline]] inline T move(T direction, T rate, T decay, T p) {
  if constexpr (decoupled) direction = direction + decay * p;
  return rate * direction;
}

template <bool decoupled, class T>
[[gnu::always_inline]] inline T move(Move<T> whole, T rate, T decay, T p) {
  if constexpr (decoupled) return whole.value + rate * decay * p;
  return whole.value;
}

// The update of one element, on copies of its states.
template <class Closure, class T, class... State>
[[gnu::always_inline]] inline auto peek(const Closure& rule, T g, State... state) {
  return rule(g, state...);
}

// What the loop multiplies by and compares with, in the dtype of the parameter.
template <class T>
struct Factors {
  T scale, clip_min, clip_max, rate, l1, l2, decay, ratio;
};

// Updates some adjacent elements, or only writes down what the trust ratio measures.
// The states are a pack of named pointers and the rule is a copy: over an array of pointers, and
// over a choice between constants in memory, gcc leaves the loop scalar.
// An option that is off does no arithmetic: 0 * inf would be NaN.
template <Trust trust, bool measures, Coupled coupled, bool decoupled, class T, class Closure,
          class... State>
[[gnu::always_inline]] inline void update(const Closure rule, const Factors<T> by, std::size_t n,
                                          [[maybe_unused]] T* __restrict out, T* __restrict param,
                                          const T* __restrict grad, State* __restrict... state) {
#pragma omp simd
  for (std::size_t i = 0; i < n; ++i) {
    const T p = param[i];
    T g = clamp(by.scale * grad[i], by.clip_min, by.clip_max);
    if constexpr (measures && trust == Trust::gradient) out[i] = g;
    if constexpr (coupled == Coupled::l2) g = g + by.l2 * p;
    if constexpr (coupled == Coupled::l1) g = g + by.l1 * sign(p);
    if constexpr (trust == Trust::gradient) g = by.ratio * g;
    if constexpr (measures && trust == Trust::update) {
      out[i] = move<decoupled>(peek(rule, g, state[i]...), T(1), by.decay, p);
    }
    if constexpr (!measures) {
      param[i] = p - move<decoupled>(rule(g, state[i]...), by.rate, by.decay, p);
    }
  }
}

template <Trust trust, bool measures, Coupled coupled, bool decoupled, class T, class Closure,
          class... State>
[[gnu::always_inline]] inline void update_run(const Closure rule, const Prepared& prepared,
                                              const Run& run, T* param, const T* grad,
                                              State*... state) {
  const double rate = trust == Trust::update ? prepared.rate * run.trust : prepared.rate;
  const Factors<T> by{T(run.scale),   T(run.clip_min), T(run.clip_max),   T(rate),
                      T(prepared.l1), T(prepared.l2),  T(prepared.decay), T(run.trust)};
  const auto some = [=](std::size_t i, std::size_t n) __attribute__((always_inline)) {
    T* const out = measures ? static_cast<T*>(run.measured) + i : nullptr;
    update<trust, measures, coupled, decoupled>(rule, by, n, out, param + i, grad + i,
                                                (state + i)...);
  };
  by_lines(run.n, run.fetch_ahead, some, param, grad, state...);
}

template <class R>
R rule_of(const Hyper& hyper) {
  static_assert(R::fields.count <= max_fields && R::states.count <= max_states);
  static_assert(sizeof(R) == (R::fields.count ? R::fields.count * sizeof(double) : 1),
                "the members of a rule are its fields, in their order");
  static_assert(std::is_trivially_copyable_v<R>);
  R rule;
  __builtin_memcpy(static_cast<void*>(&rule), hyper.fields, R::fields.count * sizeof(double));
  return rule;
}

template <class R, class = void>
struct Trusts {
  static constexpr Trust kind = Trust::none;
  static constexpr double (*ratio)(const Hyper&, double, double) = nullptr;
};
template <class R>
struct Trusts<R, decltype(void(R::trust))> {
  static constexpr Trust kind = R::trust;
  static double ratio(const Hyper& hyper, double param, double measured) {
    return rule_of<R>(hyper).ratio(hyper, param, measured);
  }
};

template <class R, class T>
using Closure = decltype(R{}.template at<T>(Step{}));

template <class R, class T, bool measures, Coupled coupled, bool decoupled, std::size_t... I>
void loop(const Prepared& prepared, const Run& run) {
  const void* closure = prepared.closure;
  update_run<Trusts<R>::kind, measures, coupled, decoupled>(
      *static_cast<const Closure<R, T>*>(closure), prepared, run, static_cast<T*>(run.param),
      static_cast<const T*>(run.grad), static_cast<T*>(run.states[I])...);
}

template <class R, class T, Coupled coupled, bool decoupled, std::size_t... I>
void pick(Prepared& out) {
  out.loop = loop<R, T, false, coupled, decoupled, I...>;
  out.measure = nullptr;
  if constexpr (Trusts<R>::kind != Trust::none) {
    out.measure = loop<R, T, true, coupled, decoupled, I...>;
  }
}

template <class R, class T, Coupled coupled, std::size_t... I>
void pick(Prepared& out, bool decoupled) {
  decoupled ? pick<R, T, coupled, true, I...>(out) : pick<R, T, coupled, false, I...>(out);
}

template <class R, class = void>
struct Rates {
  static double rate(const R&, const Step& step) { return step.learning_rate; }
};
template <class R>
struct Rates<R, decltype(void(&R::rate))> {
  static double rate(const R& rule, const Step& step) { return rule.rate(step); }
};

template <class R, class = void>
struct Carries {
  static constexpr const char* name = nullptr;
  static double carry(const R&, const Step&) { return 0; }
};
template <class R>
struct Carries<R, decltype(void(R::carried))> {
  static constexpr const char* name = R::carried;
  static double carry(const R& rule, const Step& step) { return rule.carry(step); }
};

template <class R, class = void>
struct Means {
  static constexpr const char* name = nullptr;
  static double weight(const R&, const Step&) { return 0; }
};
template <class R>
struct Means<R, decltype(void(R::mean))> {
  static constexpr const char* name = R::mean;
  static double weight(const R& rule, const Step& step) { return rule.weight(step); }
};

template <class R, class T, std::size_t... I>
void prepare(const Hyper& hyper, const Step& step, Prepared& out) {
  const R rule = rule_of<R>(hyper);
  static_assert(sizeof(Closure<R, T>) <= sizeof(out.closure) &&
                std::is_trivially_copyable_v<Closure<R, T>>);
  new (out.closure) Closure<R, T>(rule.template at<T>(step));
  out.rate = Rates<R>::rate(rule, step);
  out.l1 = hyper.l1;
  out.l2 = hyper.l2;
  out.decay = hyper.decay;
  out.carried = Carries<R>::carry(rule, step);
  out.weight = Means<R>::weight(rule, step);
  const bool decoupled = T(hyper.decay) != 0;
  if (T(hyper.l2) != 0) {
    pick<R, T, Coupled::l2, I...>(out, decoupled);
  } else if (T(hyper.l1) != 0) {
    pick<R, T, Coupled::l1, I...>(out, decoupled);
  } else {
    pick<R, T, Coupled::none, I...>(out, decoupled);
  }
}

template <class R, class = void>
struct Rings {
  static constexpr const char* field = nullptr;
};
template <class R>
struct Rings<R, decltype(void(R::ring))> {
  static constexpr const char* field = R::ring;
};

template <class R, std::size_t... I>
constexpr Rule describe(std::index_sequence<I...>) {
  Rule rule{R::name,
            R::fields.count,
            R::states.count,
            {},
            {},
            Carries<R>::name,
            Rings<R>::field,
            Means<R>::name,
            Trusts<R>::ratio,
            {prepare<R, float, I...>, prepare<R, double, I...>}};
  for (int i = 0; i < R::fields.count; ++i) rule.fields[i] = R::fields.items[i];
  for (int i = 0; i < R::states.count; ++i) rule.states[i] = R::states.items[i];
  return rule;
}

template <class... R>
struct Table {
  static constexpr Rule rules[] = {describe<R>(std::make_index_sequence<R::states.count>{})...};
};
template <class... R>
Table<R...> table_of(List<R...>);
using AllRules = decltype(table_of(All{}));

// Memory gives more to a core that reads several blocks at once; their lanes must fit the
// registers.
#ifdef __AVX512F__
constexpr std::size_t side_by_side = 4;
#else
constexpr std::size_t side_by_side = 2;
#endif

template <class Sum, class T>
[[gnu::always_inline]] inline void add_squares(Sum* __restrict lane, const T* __restrict values,
                                               std::size_t n, Sum factor) {
#pragma omp simd
  for (std::size_t j = 0; j < n; ++j) {
    const Sum x = factor * values[j];
    lane[j] += x * x;
  }
}

template <class Sum>
[[gnu::always_inline]] inline Sum add_lanes(Sum* lane) {
  for (std::size_t half = lanes / 2; half; half /= 2) {
    for (std::size_t j = 0; j < half; ++j) lane[j] += lane[j + half];
  }
  return lane[0];
}

// The sum of a block, or of what is left of one.
template <class Sum, class T>
Sum sum_block(const T* values, std::size_t n, Sum factor) {
  Sum lane[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) add_squares<Sum, T>(lane, values + i, lanes, factor);
  add_squares<Sum, T>(lane, values + i, n - i, factor);
  return add_lanes(lane);
}

// The sums of as many whole blocks as are read side by side.
template <class T>
void sum_blocks(const T* values, std::size_t ahead, T* sums) {
  constexpr std::size_t line = line_size / sizeof(T);
  T lane[side_by_side][lanes] = {};
  for (std::size_t i = 0; i < block_size; i += lanes) {
    for (std::size_t b = 0; b < side_by_side; ++b) {
      const T* const some = values + b * block_size + i;
      for (std::size_t j = 0; j < lanes; j += line) fetch(ahead, some + j);
      add_squares<T, T>(lane[b], some, lanes, 1);
    }
  }
  for (std::size_t b = 0; b < side_by_side; ++b) sums[b] = add_lanes(lane[b]);
}

// float32 sums are free beside the memory; where they lose bits, float64 takes the block over.
BlockSum settled(const float* x, std::size_t n, float sum) {
  if (sum > 1e-25 && sum < 1e37) return {sum, 0};
  return {sum_block<double>(x, n, 1), 0};
}

BlockSum settled(const double* x, std::size_t n, double sum) {
  if (sum > 1e-290 && sum < 1e290) return {sum, 0};
  if (sum <= 1e-290) return {sum_block<double>(x, n, 0x1p600), -1};
  return {sum_block<double>(x, n, 0x1p-600), 1};
}

template <class T>
void sum_squares(const void* values, std::size_t n, std::size_t fetch_ahead, BlockSum* out) {
  const T* x = static_cast<const T*>(values);
  constexpr std::size_t group = side_by_side * block_size;
  for (; n >= group; n -= group, x += group) {
    T sums[side_by_side];
    sum_blocks(x, fetch_ahead, sums);
    for (std::size_t b = 0; b < side_by_side; ++b) {
      *out++ = settled(x + b * block_size, block_size, sums[b]);
    }
  }
  while (n) {
    const std::size_t size = n < block_size ? n : block_size;
    *out++ = settled(x, size, sum_block<T>(x, size, 1));
    n -= size;
    x += size;
  }
}

template <class T>
void average(void* average, const void* values, std::size_t n, double weight) {
  T* __restrict mean = static_cast<T*>(average);
  const T* __restrict x = static_cast<const T*>(values);
  const T part = T(weight);
  if (part == 1) {
    __builtin_memcpy(mean, x, n * sizeof(T));
    return;
  }
#pragma omp simd
  for (std::size_t i = 0; i < n; ++i) mean[i] = mean[i] + part * (x[i] - mean[i]);
}

template <std::size_t U, std::size_t... R>
constexpr void list_streams(Kernels& table, std::index_sequence<R...>) {
  ((table.stream[U][R] = stream_of<U, R>), ...);
}

template <std::size_t... U>
constexpr Kernels with_streams(Kernels table, std::index_sequence<U...>) {
  (list_streams<U>(table, std::make_index_sequence<most_read + 1>{}), ...);
  return table;
}

constexpr Kernels without_streams{ROOFSTEP_ISA_NAME,
                                  sizeof(AllRules::rules) / sizeof(Rule),
                                  AllRules::rules,
                                  {sum_squares<float>, sum_squares<double>},
                                  {average<float>, average<double>},
                                  {}};

extern const Kernels kernels;
const Kernels kernels = with_streams(without_streams, std::make_index_sequence<most_updated + 1>{});

}  // namespace ROOFSTEP_ISA
}  // namespace roofstep
