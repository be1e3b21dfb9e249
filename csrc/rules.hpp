// Every update rule, in order of complexity: what a gradient and its states make of a direction.
//
// A rule names its fields (settings), its states, and gives for step t a function of one element;
// it knows no learning rate, decay, clipping, array or thread. Constants are computed in double
// from t and rounded once. The stated order of operations is part of the promised bits.
//
// This file is compiled once per ISA inside that ISA's namespace: it may call no function template
// of the standard library, of which the linker would keep a single copy for all CPUs.

struct Names {
  int count;
  const char* items[max_fields];
  template <class... Name>
  constexpr Names(Name... names) : count(sizeof...(names)), items{names...} {}
};

// p -= rate * g
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr Names fields{};
  static constexpr Names states{};

  template <class T>
  auto at(std::int64_t) const {
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
  auto at(std::int64_t) const {
    const T mu = T(momentum);
    return [=](T g, T& velocity) { return velocity = mu * velocity + g; };
  }
};

// On the importance of initialization and momentum in deep learning (Sutskever et al., 2013).
struct Nesterov : Momentum {
  static constexpr const char* name = "nesterov";

  template <class T>
  auto at(std::int64_t) const {
    const T mu = T(momentum);
    return [=](T g, T& velocity) {
      velocity = mu * velocity + g;
      return g + mu * velocity;
    };
  }
};

// Adam: a method for stochastic optimization (Kingma & Ba, 2015), bias correction as in its
// section 2: the direction is m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon).
struct Adam {
  static constexpr const char* name = "adam";
  static constexpr Names fields{"beta1", "beta2", "epsilon"};
  static constexpr Names states{"moment1", "moment2"};
  double beta1, beta2, epsilon;

  template <class T>
  auto at(std::int64_t t) const {
    const double root = square_root(one_minus_power(beta2, t));
    const T b1 = T(beta1), a1 = T(1 - beta1), b2 = T(beta2), a2 = T(1 - beta2);
    const T c = T(root / one_minus_power(beta1, t)), e = T(epsilon * root);
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

template <class... Rules>
struct List {};
using All = List<Sgd, Momentum, Nesterov, Adam, Amsgrad>;
