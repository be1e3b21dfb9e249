// The functions of roofstep.h: a rule over adjacent elements, or over some rows of a matrix.
#include "compiled.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "dispatch.hpp"
#include "floating_point.hpp"
#include "kernels.hpp"
#include "squares.hpp"

namespace roofstep {

namespace {

using Size = std::ptrdiff_t;
using Numbers = const std::int64_t*;

template <class T>
constexpr int dtype = static_cast<int>(sizeof(T) == sizeof(float) ? Dtype::f32 : Dtype::f64);

// Looked up once, when the library is loaded: a call takes no lock and no memory.
const struct {
  int sgd = rule_named("sgd"), momentum = rule_named("momentum"), nesterov = rule_named("nesterov"),
      adam = rule_named("adam"), adagrad = rule_named("adagrad"), rmsprop = rule_named("rmsprop"),
      centered = rule_named("rmsprop_centered"), lion = rule_named("lion");
} rules;

// Whether so many arrays of so many elements could be in memory.
template <class T>
bool is_size(Size count, Size n) {
  constexpr Size most = std::numeric_limits<Size>::max() / static_cast<Size>(sizeof(T));
  return count >= 0 && n >= 0 && (n == 0 || count <= most / n);
}

template <class T>
struct Arrays {
  T* param;
  const T* grad;
  T* states[max_states];
};

// A rule with its settings, at its t-th step.
template <class T>
class Update {
 public:
  Update(int rule, const Arrays<T>& arrays, Step step, const Hyper& hyper)
      : rule_(kernels().rules[rule]), arrays_(arrays), step_(step), hyper_(hyper) {}

  int over(Size n) const noexcept {
    if (!is_size<T>(1, n)) return ROOFSTEP_BAD_SIZE;
    if (n > 0 && !arrays_fit()) return ROOFSTEP_BAD_POINTER;
    if (step_.t < 1) return ROOFSTEP_BAD_STEP;
    if (n == 0) return ROOFSTEP_OK;
    const DefaultFloatingPoint mode;
    Prepared prepared;
    rule_.prepare[dtype<T>](hyper_, step_, prepared);
    run(prepared, 0, arrays_.grad, n, fetch_ahead());
    return ROOFSTEP_OK;
  }

  int over(Numbers rows, Size count, Size height, Size width) const noexcept {
    if (!is_size<T>(count, width) || !is_size<T>(height, width)) return ROOFSTEP_BAD_SIZE;
    if (count > 0 && (!rows || (width > 0 && !arrays_fit()))) return ROOFSTEP_BAD_POINTER;
    std::int64_t least = 0;
    for (Size i = 0; i < count; least = rows[i++]) {
      if (rows[i] < least || rows[i] >= height) return ROOFSTEP_BAD_ROWS;
    }
    if (step_.t < 1) return ROOFSTEP_BAD_STEP;
    const DefaultFloatingPoint mode;
    Prepared prepared;
    rule_.prepare[dtype<T>](hyper_, step_, prepared);
    for (Size i = 0, next; i < count; i = next) {
      for (next = i + 1; next < count && rows[next] == rows[i];) ++next;
      one_row(prepared, rows[i] * width, i * width, next * width, width);
    }
    return ROOFSTEP_OK;
  }

 private:
  // All that the rule has, and no more.
  bool arrays_fit() const {
    bool fit = arrays_.param && arrays_.grad;
    for (int s = 0; s < max_states; ++s) {
      fit = fit && (arrays_.states[s] != nullptr) == (s < rule_.state_count);
    }
    return fit;
  }

  // The row that begins at an element of the parameter, by the sum of its gradients from `begin` to
  // `end`. From 0, as the Python door adds: of zeros the sign is gone.
  void one_row(const Prepared& prepared, Size row, Size begin, Size end, Size width) const {
    constexpr Size most = 512;  // the stack of a caller's thread may be small
    alignas(64) T sums[most];
    for (Size done = 0; done < width; done += most) {
      const Size n = std::min(most, width - done);
      const T* values = arrays_.grad + begin + done;
      for (Size j = 0; j < n; ++j) sums[j] = T(0) + values[j];
      for (Size from = begin + width; from < end; from += width) {
        values += width;
        for (Size j = 0; j < n; ++j) sums[j] += values[j];
      }
      run(prepared, row + done, sums, n, 0);
    }
  }

  void run(const Prepared& prepared, Size begin, const T* grad, Size n, std::size_t ahead) const {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    Run run{};
    run.param = arrays_.param + begin;
    run.grad = grad;
    for (int s = 0; s < rule_.state_count; ++s) run.states[s] = arrays_.states[s] + begin;
    run.n = static_cast<std::size_t>(n);
    run.scale = 1;
    run.clip_min = -infinity;
    run.clip_max = infinity;
    run.trust = 1;
    run.fetch_ahead = ahead;
    prepared.loop(prepared, run);
  }

  const Rule& rule_;
  const Arrays<T> arrays_;
  const Step step_;
  const Hyper hyper_;
};

Step at(std::int64_t t, double learning_rate) { return {t, learning_rate, 0}; }

Hyper with(double learning_rate, double decay, std::initializer_list<double> fields) {
  Hyper hyper{{}, learning_rate, 0, 0, decay};
  std::copy(fields.begin(), fields.end(), hyper.fields);
  return hyper;
}

// `Where` is the number of elements, or row numbers, their count, and the height and width.
template <class T, class... Where>
int sgd(T* param, const T* grad, Where... where, double learning_rate) {
  return Update<T>(rules.sgd, {param, grad, {}}, at(1, learning_rate), with(learning_rate, 0, {}))
      .over(where...);
}

template <class T, class... Where>
int momentum(T* param, const T* grad, T* velocity, Where... where, double learning_rate, double mu,
             int use_nesterov) {
  return Update<T>(use_nesterov ? rules.nesterov : rules.momentum, {param, grad, {velocity}},
                   at(1, learning_rate), with(learning_rate, 0, {mu}))
      .over(where...);
}

template <class T, class... Where>
int adamw(T* param, const T* grad, T* moment1, T* moment2, Where... where, double learning_rate,
          double beta1, double beta2, double epsilon, double weight_decay, std::int64_t t) {
  return Update<T>(rules.adam, {param, grad, {moment1, moment2}}, at(t, learning_rate),
                   with(learning_rate, weight_decay, {beta1, beta2, epsilon}))
      .over(where...);
}

template <class T, class... Where>
int adam(T* param, const T* grad, T* moment1, T* moment2, Where... where, double learning_rate,
         double beta1, double beta2, double epsilon, std::int64_t t) {
  return adamw<T, Where...>(param, grad, moment1, moment2, where..., learning_rate, beta1, beta2,
                            epsilon, 0, t);
}

template <class T, class... Where>
int adagrad(T* param, const T* grad, T* moment, Where... where, double learning_rate,
            double epsilon) {
  return Update<T>(rules.adagrad, {param, grad, {moment}}, at(1, learning_rate),
                   with(learning_rate, 0, {epsilon}))
      .over(where...);
}

template <class T, class... Where>
int rmsprop(T* param, const T* grad, T* velocity, T* mean_square, T* mean_grad, Where... where,
            double learning_rate, double rho, double epsilon, double momentum, int centered) {
  return Update<T>(centered ? rules.centered : rules.rmsprop,
                   {param, grad, {velocity, mean_square, mean_grad}}, at(1, learning_rate),
                   with(learning_rate, 0, {rho, epsilon, momentum}))
      .over(where...);
}

template <class T, class... Where>
int lion(T* param, const T* grad, T* moment, Where... where, double learning_rate, double beta1,
         double beta2, double weight_decay) {
  return Update<T>(rules.lion, {param, grad, {moment}}, at(1, learning_rate),
                   with(learning_rate, weight_decay, {beta1, beta2}))
      .over(where...);
}

template <class T>
double sum_squares(const T* x, Size n) noexcept {
  if (n < 0 || (n > 0 && !x)) return std::numeric_limits<double>::quiet_NaN();
  const DefaultFloatingPoint mode;
  constexpr Size at_once = 16;
  BlockSum sums[at_once];
  SumSquares total;
  for (Size size; n > 0; x += size, n -= size) {
    size = std::min<Size>(n, at_once * block_size);
    kernels().sum_squares[dtype<T>](x, static_cast<std::size_t>(size), fetch_ahead(), sums);
    const Size blocks = (size + Size(block_size) - 1) / Size(block_size);
    for (Size b = 0; b < blocks; ++b) total.add(sums[b]);
  }
  return total.value();
}

}  // namespace

const roofstep_kernels compiled_door = {
    ROOFSTEP_VERSION,
    sgd<float, Size>,
    sgd<double, Size>,
    sgd<float, Numbers, Size, Size, Size>,
    sgd<double, Numbers, Size, Size, Size>,
    momentum<float, Size>,
    momentum<double, Size>,
    momentum<float, Numbers, Size, Size, Size>,
    momentum<double, Numbers, Size, Size, Size>,
    adam<float, Size>,
    adam<double, Size>,
    adam<float, Numbers, Size, Size, Size>,
    adam<double, Numbers, Size, Size, Size>,
    adamw<float, Size>,
    adamw<double, Size>,
    adamw<float, Numbers, Size, Size, Size>,
    adamw<double, Numbers, Size, Size, Size>,
    adagrad<float, Size>,
    adagrad<double, Size>,
    adagrad<float, Numbers, Size, Size, Size>,
    adagrad<double, Numbers, Size, Size, Size>,
    rmsprop<float, Size>,
    rmsprop<double, Size>,
    rmsprop<float, Numbers, Size, Size, Size>,
    rmsprop<double, Numbers, Size, Size, Size>,
    lion<float, Size>,
    lion<double, Size>,
    lion<float, Numbers, Size, Size, Size>,
    lion<double, Numbers, Size, Size, Size>,
    sum_squares<float>,
    sum_squares<double>,
};

}  // namespace roofstep
