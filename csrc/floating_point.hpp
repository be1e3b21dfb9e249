// The floating-point environment that the promised bits are computed in.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace roofstep {

// Denormals are kept and rounding is to nearest, whatever another library has set in this thread.
// To set a mode takes longer than to update some elements, so that is done only where it must be;
// the flags that arithmetic raises stay or are put back as it happens.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() : saved_(mode()) {
    if (modes(saved_) != modes(standard)) set_mode(standard);
  }
  ~DefaultFloatingPoint() {
    if (modes(saved_) != modes(standard)) set_mode(saved_);
  }
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;

 private:
#if defined(__x86_64__)
  using Mode = unsigned;
  static constexpr Mode standard = 0x1f80;
  // Without the flags that arithmetic raises.
  static Mode modes(Mode mode) { return mode & ~0x3fu; }
  static Mode mode() { return _mm_getcsr(); }
  static void set_mode(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Mode = std::uint64_t;
  static constexpr Mode standard = 0;
  static Mode modes(Mode mode) { return mode; }
  static Mode mode() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set_mode(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  using Mode = int;
  static constexpr Mode standard = 0;
  static Mode modes(Mode mode) { return mode; }
  static Mode mode() { return standard; }
  static void set_mode(Mode) {}
#endif
  const Mode saved_;
};

}  // namespace roofstep
