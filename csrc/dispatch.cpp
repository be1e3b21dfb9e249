// The list of ISAs, best first, each with what it needs of the CPU; the only state kept in C++.
#include "dispatch.hpp"

#include <atomic>
#include <cstring>
#include <stdexcept>

namespace roofstep {

namespace {

struct Candidate {
  const Kernels& kernels;
  bool (*supported)();
};

bool always() { return true; }

}  // namespace

#if defined(__x86_64__) && !defined(ROOFSTEP_BASELINE_ALONE)

namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace baseline {
extern const Kernels kernels;
}

namespace {

// Each feature that the compiler was allowed to use, by name: a virtual machine may mask any.
bool has_avx2() {
  return __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("sse4.2") &&
         __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

const Candidate candidates[] = {
    {avx512::kernels, has_avx512}, {avx2::kernels, has_avx2}, {baseline::kernels, always}};

}  // namespace

#elif defined(__aarch64__) && !defined(ROOFSTEP_BASELINE_ALONE)

namespace neon {
extern const Kernels kernels;
}
namespace {
const Candidate candidates[] = {{neon::kernels, always}};
}

#else

namespace baseline {
extern const Kernels kernels;
}
namespace {
const Candidate candidates[] = {{baseline::kernels, always}};
}

#endif

namespace {

// Measured: on a Xeon of the fourth generation this takes 10 % off an update of Adam and 20 % off a
// norm out of memory, and nothing else up to 4 KB does more; on Zen 4 every distance cost 10-27 %.
std::size_t best_fetch_ahead() {
#if defined(__x86_64__) && !defined(ROOFSTEP_BASELINE_ALONE)
  __builtin_cpu_init();  // Clang's library on Windows does not do so by itself
  if (__builtin_cpu_is("intel") && has_avx512()) return 40 * 64;
#endif
  return 0;
}

std::atomic<const Kernels*> selected{nullptr};
std::atomic<std::size_t> selected_fetch_ahead{best_fetch_ahead()};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : candidates) {
    if (candidate.supported()) names.push_back(candidate.kernels.isa);
  }
  return names;
}

void select_isa(const std::string& name) {
  for (const Candidate& candidate : candidates) {
    if (candidate.supported() && (name.empty() || name == candidate.kernels.isa)) {
      selected = &candidate.kernels;
      return;
    }
  }
  std::string known;
  for (const std::string& isa : available_isas()) known += (known.empty() ? "" : ", ") + isa;
  throw std::invalid_argument("'" + name + "' is no ISA that this CPU can run; it runs " + known);
}

const Kernels& kernels() { return *selected.load(std::memory_order_relaxed); }

int rule_named(const char* name) {
  const Kernels& any = candidates[0].kernels;
  for (int i = 0; i < any.rule_count; ++i) {
    if (!std::strcmp(any.rules[i].name, name)) return i;
  }
  return -1;
}

std::size_t fetch_ahead() { return selected_fetch_ahead.load(std::memory_order_relaxed); }
void set_fetch_ahead(std::size_t bytes) { selected_fetch_ahead = bytes; }

}  // namespace roofstep
