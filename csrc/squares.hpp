// The sum of the squares of many blocks: added in their order, whatever their scale.
#pragma once

#include <cmath>

#include "kernels.hpp"

namespace roofstep {

// At three scales, 2**-1200, 1 and 2**1200: no float64 gradient leaves their range.
struct SumSquares {
  static constexpr double k = 0x1p-600;
  double scaled[3] = {};

  void add(BlockSum block) { scaled[block.exponent + 1] += block.value; }
  void add(const SumSquares& other) {
    for (int i = 0; i < 3; ++i) scaled[i] += other.scaled[i];
  }
  // Whether every number was: of those that are, no sum leaves its scale.
  bool finite() const {
    return std::isfinite(scaled[0]) && std::isfinite(scaled[1]) && std::isfinite(scaled[2]);
  }
  // 0 or infinity where a double has no room for it.
  double value() const {
    const double small = scaled[0], middle = scaled[1], big = scaled[2];
    return big / k / k + (middle + small * k * k);
  }
  double norm() const {
    const double small = scaled[0], middle = scaled[1], big = scaled[2];
    if (big != 0) return std::sqrt(big + middle * k * k) / k;
    if (middle != 0) return std::sqrt(middle + small * k * k);
    return std::sqrt(small) * k;
  }
};

}  // namespace roofstep
