// Every update rule, in order of complexity: what a gradient and its states make of a direction.
//
// A rule names its fields (settings), its states, and gives for step t a function of one element;
// it knows no decay, clipping, array or thread, and as a rule no learning rate. What else a rule
// may have: `carried`, a number from step to step; `ring`, a last state with a slot for each of
// several steps; `trust`, a ratio of two norms; `rate`, at which its direction is gone in the place
// of the learning rate; `mean`, a running mean of the parameter that is its own. Constants are
// computed in double from t and rounded once. The stated order of operations is part of the
// promised bits.
//
// This file is compiled once per ISA inside that ISA's namespace: it may call no function template
// of the standard library, of which the linker would keep a single copy for all CPUs.

struct Names {
  int count;
  const char* items[max_fields];
  template <class... Name>
  constexpr Names(Name... names) : count(sizeof...(names)), items{names...} {}
};

// What a rule returns that keeps the learning rate inside: not a direction, but the whole move.
template <class T>
struct Move {
  T value;
};

// p -= rate * g
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr Names fields{};
  static constexpr Names states{};

  template <class T>
  auto at(Step) const {
    return [](T g) { return g; };
  }
};

// Some methods of speeding up the convergence of iteration methods (Polyak, 1964).
struct Momentum {
  static constexpr const char* name = "momentum";
  static constexpr Names fields{"momentum"};
  static constexpr Names states{"velocity"};
  double momentum;

  template <class T>
  auto at(Step) const {
    const T mu = T(momentum);
    return [=](T g, T& velocity) { return velocity = mu * velocity + g; };
  }
};

// Momentum that takes in a part of each gradient but the first, which it begins with.
struct DampenedMomentum {
  static constexpr const char* name = "dampened_momentum";
  static constexpr Names fields{"momentum", "dampening"};
  static constexpr Names states{"velocity"};
  double momentum, dampening;

  template <class T>
  auto at(Step step) const {
    const T mu = T(momentum), part = T(step.t == 1 ? 1 : 1 - dampening);
    return [=](T g, T& velocity) { return velocity = mu * velocity + part * g; };
  }
};

// On the importance of initialization and momentum in deep learning (Sutskever et al., 2013).
struct Nesterov : Momentum {
  static constexpr const char* name = "nesterov";

  template <class T>
  auto at(Step) const {
    const T mu = T(momentum);
    return [=](T g, T& velocity) {
      velocity = mu * velocity + g;
      return g + mu * velocity;
    };
  }
};

// Large batch training of convolutional networks (You, Gitman & Ginsburg, 2017): LARS. The momentum
// takes in the learning rate; each tensor's gradient is scaled to a part of the tensor's length.
struct Lars {
  static constexpr const char* name = "lars";
  static constexpr Trust trust = Trust::gradient;
  static constexpr Names fields{"momentum", "lars_coeff", "epsilon"};
  static constexpr Names states{"velocity"};
  double momentum, lars_coeff, epsilon;

  double ratio(const Hyper& hyper, double param, double gradient) const {
    const double below = gradient + hyper.l2 * param + epsilon;
    return param > 0 && gradient > 0 && below > 0 ? lars_coeff * param / below : 1;
  }

  template <class T>
  auto at(Step step) const {
    const T mu = T(momentum), rate = T(step.learning_rate);
    return [=](T g, T& velocity) {
      velocity = mu * velocity + rate * g;
      return Move<T>{velocity};
    };
  }
};

// Acceleration of stochastic approximation by averaging (Polyak & Juditsky, 1992), at the rates of
// Towards optimal one pass large scale learning with averaged stochastic gradient descent (Xu,
// 2011): the mean begins after t0 steps and is the parameter itself before. The decay of lambd
// comes as decoupled decay.
struct AveragedSgd {
  static constexpr const char* name = "averaged_sgd";
  static constexpr const char* carried = "eta";
  static constexpr const char* mean = "ax";
  static constexpr Names fields{"lambd", "alpha", "t0"};
  static constexpr Names states{};
  double lambd, alpha, t0;

  double rate(Step step) const { return step.carried; }
  double carry(Step step) const {
    return step.learning_rate / power(1 + lambd * step.learning_rate * double(step.t), alpha);
  }
  // Of the new value in the mean.
  double weight(Step step) const {
    const double averaged = double(step.t - 1) - t0;
    return step.t > 1 && averaged > 1 ? 1 / averaged : 1;
  }

  template <class T>
  auto at(Step) const {
    return [](T g) { return g; };
  }
};

// Minimizing finite sums with the stochastic average gradient (Schmidt, Le Roux & Bach, 2017): y
// holds the last gradient of each batch, d their sum.
struct Asgd {
  static constexpr const char* name = "asgd";
  static constexpr const char* ring = "batch_num";
  static constexpr Names fields{"batch_num"};
  static constexpr Names states{"d", "y"};
  double batch_num;

  template <class T>
  auto at(Step step) const {
    const double seen = double(step.t) < batch_num ? double(step.t) : batch_num;
    const T rate = T(step.learning_rate / seen);
    return [=](T g, T& d, T& y) {
      d = d - y + g;
      y = g;
      return Move<T>{rate * d};
    };
  }
};

// A direct adaptive method for faster backpropagation learning: the RPROP algorithm (Riedmiller &
// Braun, 1993). After a change of sign an element rests for one step.
struct Rprop {
  static constexpr const char* name = "rprop";
  static constexpr Names fields{"learning_rate_range[0]", "learning_rate_range[1]", "etas[0]",
                                "etas[1]"};
  static constexpr Names states{"prevs", "learning_rates"};
  double shortest, longest, shrink, grow;

  template <class T>
  auto at(Step) const {
    const T low = T(shortest), high = T(longest), down = T(shrink), up = T(grow);
    return [=](T g, T& previous, T& size) {
      const T way = sign(g), turn = way * previous;  // g * previous may underflow
      const T same = turn > 0 ? up : T(1);
      size = clamp(size * (turn < 0 ? down : same), low, high);
      previous = turn < 0 ? T(0) : g;
      return Move<T>{(turn < 0 ? T(0) : way) * size};
    };
  }
};

// Symbolic discovery of optimization algorithms (Chen et al., 2023): Lion.
struct Lion {
  static constexpr const char* name = "lion";
  static constexpr Names fields{"beta1", "beta2"};
  static constexpr Names states{"moment"};
  double beta1, beta2;

  template <class T>
  auto at(Step) const {
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), a2 = T(1 - beta2);
    return [=](T g, T& m) {
      const T mixed = b1 * m + a1 * g;
      m = b2 * m + a2 * g;
      return sign(mixed);
    };
  }
};

// Adaptive subgradient methods for online learning and stochastic optimization (Duchi et al.,
// 2011).
struct Adagrad {
  static constexpr const char* name = "adagrad";
  static constexpr Names fields{"epsilon"};
  static constexpr Names states{"moment"};
  double epsilon;

  template <class T>
  auto at(Step) const {
    const T e = T(epsilon);
    return [=](T g, T& sum) {
      sum = sum + g * g;
      return g / (square_root(sum) + e);
    };
  }
};

// The same at a rate that falls with the steps by itself.
struct SlowingAdagrad : Adagrad {
  static constexpr const char* name = "adagrad_slowing";
  static constexpr Names fields{"epsilon", "lr_decay"};
  double lr_decay;

  double rate(Step step) const { return step.learning_rate / (1 + double(step.t - 1) * lr_decay); }
};

// ADADELTA: an adaptive learning rate method (Zeiler, 2012).
struct Adadelta {
  static constexpr const char* name = "adadelta";
  static constexpr Names fields{"rho", "epsilon"};
  static constexpr Names states{"_avg_squared_grad", "_avg_squared_update"};
  double rho, epsilon;

  template <class T>
  auto at(Step) const {
    const T r = T(rho), a = T(1 - rho), e = T(epsilon);
    return [=](T g, T& squared_grad, T& squared_update) {
      squared_grad = r * squared_grad + a * g * g;
      const T direction = g * square_root((squared_update + e) / (squared_grad + e));
      squared_update = r * squared_update + a * direction * direction;
      return direction;
    };
  }
};

// Lecture 6e of Neural networks for machine learning (Tieleman & Hinton, 2012), with momentum that
// takes in the learning rate; centered as in Generating sequences with recurrent neural networks
// (Graves, 2013).
struct RmsProp {
  static constexpr const char* name = "rmsprop";
  static constexpr Names fields{"rho", "epsilon", "momentum"};
  static constexpr Names states{"momentum", "mean_square"};
  double rho, epsilon, momentum;

  template <class T>
  auto at(Step step) const {
    const T r = T(rho), a = T(1 - rho), e = T(epsilon), mu = T(momentum);
    const T rate = T(step.learning_rate);
    return [=](T g, T& velocity, T& mean_square, auto&... mean) {
      mean_square = r * mean_square + a * g * g;
      T s = mean_square;
      ((mean = r * mean + a * g, s = s - mean * mean), ...);
      velocity = mu * velocity + rate * g / square_root(s + e);
      return Move<T>{velocity};
    };
  }
};

struct CenteredRmsProp : RmsProp {
  static constexpr const char* name = "rmsprop_centered";
  static constexpr Names states{"momentum", "mean_square", "mean_grad"};
};

// The same with epsilon outside of the root, as the lecture's users have it: the gradient over its
// root mean square, or over its standard deviation. Momentum is of that, without the learning rate.
struct OverRms {
  static constexpr const char* name = "over_rms";
  static constexpr Names fields{"rho", "epsilon"};
  static constexpr Names states{"mean_square"};
  double rho, epsilon;

  template <class T>
  auto at(Step) const {
    const T r = T(rho), a = T(1 - rho), e = T(epsilon);
    return [=](T g, T& mean_square, auto&... mean) __attribute__((always_inline)) {
      mean_square = r * mean_square + a * g * g;
      T s = mean_square;
      ((mean = r * mean + a * g, s = s - mean * mean), ...);
      return g / (square_root(s) + e);
    };
  }
};

struct OverDeviation : OverRms {
  static constexpr const char* name = "over_deviation";
  static constexpr Names states{"mean_square", "mean_grad"};
};

struct OverRmsMomentum : OverRms {
  static constexpr const char* name = "over_rms_momentum";
  static constexpr Names fields{"rho", "epsilon", "momentum"};
  static constexpr Names states{"momentum", "mean_square"};
  double momentum;

  template <class T>
  auto at(Step step) const {
    const auto over = OverRms::at<T>(step);
    const T mu = T(momentum);
    return [=](T g, T& velocity, auto&... means) {
      return velocity = mu * velocity + over(g, means...);
    };
  }
};

struct OverDeviationMomentum : OverRmsMomentum {
  static constexpr const char* name = "over_deviation_momentum";
  static constexpr Names states{"momentum", "mean_square", "mean_grad"};
};

// Adam: a method for stochastic optimization (Kingma & Ba, 2015), bias correction as in its
// section 2: the direction is m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon).
struct Adam {
  static constexpr const char* name = "adam";
  static constexpr Names fields{"beta1", "beta2", "epsilon"};
  static constexpr Names states{"moment1", "moment2"};
  double beta1, beta2, epsilon;

  template <class T>
  auto at(Step step) const {
    const double root = square_root(one_minus_power(beta2, step.t));
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), a2 = T(1 - beta2);
    const T c = T(root / one_minus_power(beta1, step.t)), e = T(epsilon * root);
    return [=](T g, T& m, T& v, auto&... v_max) {
      m = b1 * m + a1 * g;
      v = b2 * v + a2 * g * g;
      T s = v;
      ((s = v_max = maximum(v_max, v)), ...);
      return c * m / (square_root(s) + e);
    };
  }
};

// On the convergence of Adam and beyond (Reddi et al., 2018): the largest v so far scales the step.
struct Amsgrad : Adam {
  static constexpr const char* name = "amsgrad";
  static constexpr Names states{"moment1", "moment2", "moment2_max"};
};

// Large batch optimization for deep learning: training BERT in 76 minutes (You et al., 2020): LAMB,
// Adam of which each tensor's update, decay included, is scaled to the tensor's own length.
struct Lamb : Adam {
  static constexpr const char* name = "lamb";
  static constexpr Trust trust = Trust::update;

  double ratio(const Hyper&, double param, double update) const {
    return param > 0 && update > 0 ? param / update : 1;
  }
};

// Adam's section 7.1: the infinity norm in the place of the root mean square. Epsilon is added to
// the decayed norm, as Paddle does.
struct Adamax {
  static constexpr const char* name = "adamax";
  static constexpr Names fields{"beta1", "beta2", "epsilon"};
  static constexpr Names states{"moment", "inf_norm"};
  double beta1, beta2, epsilon;

  template <class T>
  auto at(Step step) const {
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), e = T(epsilon);
    const T c = T(1 / one_minus_power(beta1, step.t));
    return [=](T g, T& m, T& norm) {
      m = b1 * m + a1 * g;
      norm = maximum(magnitude(g), b2 * norm + e);
      return c * m / norm;
    };
  }
};

// The same with epsilon added to the gradient's magnitude, so that it is not gathered in the norm.
struct PaddedAdamax : Adamax {
  static constexpr const char* name = "adamax_padded";

  template <class T>
  auto at(Step step) const {
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), e = T(epsilon);
    const T c = T(1 / one_minus_power(beta1, step.t));
    return [=](T g, T& m, T& norm) {
      m = b1 * m + a1 * g;
      norm = maximum(b2 * norm, magnitude(g) + e);
      return c * m / norm;
    };
  }
};

// On the variance of the adaptive learning rate and beyond (Liu et al., 2020): Adam once the
// variance of its scale is known well enough, momentum before.
struct RAdam {
  static constexpr const char* name = "radam";
  static constexpr Names fields{"beta1", "beta2", "epsilon"};
  static constexpr Names states{"moment1", "moment2"};
  double beta1, beta2, epsilon;

  template <class T>
  auto at(Step step) const {
    const double rest1 = one_minus_power(beta1, step.t), rest2 = one_minus_power(beta2, step.t);
    const double last = 2 / (1 - beta2) - 1;
    const double length = last - 2 * double(step.t) * power({beta2, 0}, step.t).high / rest2;
    const bool adaptive = length > 5;
    const double rectification =
        (length - 4) * (length - 2) * last / ((last - 4) * (last - 2) * length);
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), a2 = T(1 - beta2), e = T(epsilon);
    const T c = T((adaptive ? square_root(rectification * rest2) : 1) / rest1);
    // Bounds of 1 leave the scale out; a choice by a constant would leave gcc's loop scalar.
    const T least = T(adaptive ? -__builtin_inf() : 1), most = T(adaptive ? __builtin_inf() : 1);
    return [=](T g, T& m, T& v) {
      m = b1 * m + a1 * g;
      v = b2 * v + a2 * g * g;
      return c * m / clamp(square_root(v) + e, least, most);
    };
  }
};

// Incorporating Nesterov momentum into Adam (Dozat, 2016): mu_t = beta1 * (1 - 0.96^(t psi) / 2),
// whose product has no closed form. `fade` and `fade_rest` add up to 0.96^psi.
struct NAdam {
  static constexpr const char* name = "nadam";
  static constexpr const char* carried = "mu_product";
  static constexpr Names fields{"beta1", "beta2", "epsilon", "fade", "fade_rest"};
  static constexpr Names states{"moment1", "moment2"};
  double beta1, beta2, epsilon, fade, fade_rest;

  double mu(std::int64_t t) const { return beta1 * (1 - power({fade, fade_rest}, t).high / 2); }
  double carry(Step step) const { return step.carried * mu(step.t); }

  template <class T>
  auto at(Step step) const {
    const double product = carry(step), next = mu(step.t + 1);
    const double root = square_root(one_minus_power(beta2, step.t));
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), a2 = T(1 - beta2);
    const T c = T(root * next / (1 - product * next)), e = T(epsilon * root);
    const T d = T(root * (1 - mu(step.t)) / (1 - product));
    return [=](T g, T& m, T& v) {
      m = b1 * m + a1 * g;
      v = b2 * v + a2 * g * g;
      return (c * m + d * g) / (square_root(v) + e);
    };
  }
};

// Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models (Xie et al., 2024).
struct Adan {
  static constexpr const char* name = "adan";
  static constexpr Names fields{"beta1", "beta2", "beta3", "epsilon"};
  static constexpr Names states{"moment1", "moment1_diff", "moment2", "prev_grad"};
  double beta1, beta2, beta3, epsilon;

  template <class T>
  auto at(Step step) const {
    const double root = square_root(one_minus_power(beta3, step.t));
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), a2 = T(1 - beta2);
    const T b3 = T(beta3), a3 = T(1 - beta3), e = T(epsilon * root);
    const T c = T(root / one_minus_power(beta1, step.t));
    const T d = T(root * beta2 / one_minus_power(beta2, step.t));
    // The first gradient is no change; a choice by a constant would leave gcc's loop scalar.
    const T most = T(step.t == 1 ? 0 : __builtin_inf());
    return [=](T g, T& m, T& v, T& n, T& previous) {
      const T change = clamp(g - previous, -most, most);
      const T ahead = g + b2 * change;
      m = b1 * m + a1 * g;
      v = b2 * v + a2 * change;
      n = b3 * n + a3 * ahead * ahead;
      previous = g;
      return (c * m + d * v) / (square_root(n) + e);
    };
  }
};

template <class... Rules>
struct List {};
using All = List<Sgd, Momentum, DampenedMomentum, Nesterov, Lars, AveragedSgd, Asgd, Rprop, Lion,
                 Adagrad, SlowingAdagrad, Adadelta, RmsProp, CenteredRmsProp, OverRms,
                 OverDeviation, OverRmsMomentum, OverDeviationMomentum, Adam, Amsgrad, Lamb, Adamax,
                 PaddedAdamax, RAdam, NAdam, Adan>;
