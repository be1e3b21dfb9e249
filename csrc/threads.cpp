// What a step asks of OpenMP and of the operating system's scheduler.
#include "threads.hpp"

#include <chrono>

#ifdef __linux__
#include <sched.h>
#endif
#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>
#endif

namespace roofstep {

#ifdef _OPENMP
int openmp_version() { return _OPENMP; }
int max_threads() { return omp_get_max_threads(); }
#else
int openmp_version() { return 0; }
int max_threads() { return 1; }
#endif

#if defined(_OPENMP) && !defined(_WIN32)
void survive_fork() {
  pthread_atfork([] { omp_pause_resource_all(omp_pause_hard); }, nullptr, nullptr);
}
#else
void survive_fork() {}
#endif

namespace {

using Clock = std::chrono::steady_clock;

// Threads of OpenMP's pools spin for 3 to 5 ms before they sleep (measured with libgomp 12).
constexpr Clock::duration wakeful = std::chrono::milliseconds(4);

std::atomic<Clock::rep> resting_since{0};

}  // namespace

int threads_for_little(int threads) {
  const Clock::duration now = Clock::now().time_since_epoch();
  return now - Clock::duration(resting_since.load(std::memory_order_relaxed)) < wakeful ? threads
                                                                                        : 1;
}

void rest() {
  resting_since.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
}

#ifdef __linux__
int current_cpu() { return sched_getcpu(); }

void leave_cpu(int cpu) {
  if (cpu < 0 || sched_getcpu() != cpu) return;
  cpu_set_t allowed, others;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;  // more CPUs than a set holds
  others = allowed;
  CPU_CLR(cpu, &others);
  // The kernel moves a thread at once that may no longer run where it is.
  if (sched_setaffinity(0, sizeof others, &others) == 0) {
    sched_setaffinity(0, sizeof allowed, &allowed);
  }
}
#else
int current_cpu() { return -1; }
void leave_cpu(int) {}
#endif

}  // namespace roofstep
