// The arithmetic that rules and norms are written in; included inside each ISA's namespace.
//
// Only IEEE + - * / and sqrt in a stated order, so that every ISA and NumPy give the same bits.

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }

// NaN if either is NaN, as numpy.maximum.
template <class T>
inline T maximum(T a, T b) {
  a = b > a ? b : a;
  return b != b ? b : a;
}

// NaN stays NaN, as numpy.clip.
template <class T>
inline T clamp(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// sign(0) is 0 and sign(NaN) is NaN, as numpy.sign.
template <class T>
inline T sign(T x) {
  const T one_or_nan = x != x ? x : T(x != 0);
  return x < 0 ? -one_or_nan : one_or_nan;
}

// An unevaluated sum of two doubles: about 106 bits of mantissa.
struct DoubleDouble {
  double high, low;
};

// Dekker's product, exact without a fused multiply-add.
inline DoubleDouble multiply(double a, double b) {
  constexpr double splitter = 134217729;  // 2**27 + 1
  const double ta = splitter * a, tb = splitter * b;
  const double a1 = ta - (ta - a), a2 = a - a1;
  const double b1 = tb - (tb - b), b2 = b - b1;
  const double product = a * b;
  return {product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2};
}

inline DoubleDouble multiply(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble p = multiply(a.high, b.high);
  const double low = p.low + (a.high * b.low + a.low * b.high);
  const double high = p.high + low;
  return {high, low - (high - p.high)};
}

// base**exponent for a base in [0, 1]: neither libm's pow, whose bits differ between CPUs, nor a
// running product, whose error grows with the steps.
inline DoubleDouble power(DoubleDouble base, std::int64_t exponent) {
  DoubleDouble power{1, 0};
  for (; exponent > 1; exponent >>= 1) {
    if (exponent & 1) power = multiply(power, base);
    base = multiply(base, base);
  }
  return exponent ? multiply(power, base) : power;
}

// 1 - base**exponent for a base in [0, 1], rounded once. For a base within 2**-50 of 1 two doubles
// may take a tie for what it is not, and the result is then one unit off.
inline double one_minus_power(double base, std::int64_t exponent) {
  // The power is at most e**-(exponent * (1 - base)); of less than 2**-54 nothing is left beside 1.
  if (double(exponent) * (1 - base) > 38) return 1;
  const DoubleDouble p = power({base, 0}, exponent);
  const double rest = 1 - p.high;
  return rest + (((1 - rest) - p.high) - p.low);
}

inline DoubleDouble add(DoubleDouble a, DoubleDouble b) {
  const double high = a.high + b.high, of_b = high - a.high;
  const double low = ((a.high - (high - of_b)) + (b.high - of_b)) + (a.low + b.low);
  const double sum = high + low;
  return {sum, low - (sum - high)};
}

inline DoubleDouble divide(DoubleDouble a, DoubleDouble b) {
  const double first = a.high / b.high;
  const DoubleDouble taken = multiply({first, 0}, b);
  const DoubleDouble rest = add(a, {-taken.high, -taken.low});
  return add({first, 0}, {rest.high / b.high, 0});
}

constexpr DoubleDouble log_of_2{0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};

// The natural logarithm of a number > 0, by the series of 2 atanh((x - 1) / (x + 1)) of what is
// left of it in [sqrt(1/2), sqrt(2)] without its power of two.
inline DoubleDouble logarithm(double x) {
  int exponent;
  double m = __builtin_frexp(x, &exponent);
  if (m < 0x1.6a09e667f3bcdp-1) {
    m = 2 * m;
    --exponent;
  }
  const DoubleDouble s = divide(add({m, 0}, {-1, 0}), add({m, 0}, {1, 0}));
  const DoubleDouble square = multiply(s, s);
  DoubleDouble sum{0, 0};
  for (int n = 41; n > 0; n -= 2) {
    sum = add(divide({1, 0}, {double(n), 0}), multiply(square, sum));
  }
  return add(multiply(DoubleDouble{2 * s.high, 2 * s.low}, sum),
             multiply(log_of_2, {double(exponent), 0}));
}

// e**x, rounded once, by the power series of what is left of it without its powers of two; from
// below the least normal number rounded twice.
inline double exponential(DoubleDouble x) {
  if (x.high > 710) return __builtin_inf();
  if (x.high < -746) return 0;
  const double ratio = x.high / log_of_2.high;
  const int exponent = int(ratio < 0 ? ratio - 0.5 : ratio + 0.5);
  const DoubleDouble part = add(x, multiply(log_of_2, {double(-exponent), 0}));
  DoubleDouble sum{1, 0};
  for (int n = 24; n > 0; --n) {
    sum = add({1, 0}, multiply(divide(part, {double(n), 0}), sum));
  }
  return __builtin_ldexp(sum.high, exponent);
}

// base**exponent of a finite base > 0 and an exponent below 2**64 or so, rounded once but for ties
// that two doubles do not tell apart; NaN for any other. Of libm this takes what only moves a
// point, and so is exact.
inline double power(double base, double exponent) {
  if (!(base > 0 && base < __builtin_inf())) return __builtin_nan("");
  return exponential(multiply(logarithm(base), {exponent, 0}));
}
