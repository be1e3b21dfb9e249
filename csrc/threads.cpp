// What a step asks of OpenMP and of the operating system's scheduler.
#include "threads.hpp"

#include <chrono>
#include <climits>

#ifdef __linux__
#include <sched.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace roofstep {

#ifdef _OPENMP
int openmp_version() { return _OPENMP; }
#else
int openmp_version() { return 0; }
#endif

namespace {

std::atomic<int> most_threads{INT_MAX};

#ifdef _OPENMP
// The CPUs that this thread may run on now.
int cpus() {
#ifdef __linux__
  cpu_set_t allowed;
  // OpenMP itself has bound the thread to one of its places, if it has any.
  if (omp_get_num_places() == 0 && sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    return CPU_COUNT(&allowed);
  }
#endif
  return omp_get_num_procs();
}
#endif

}  // namespace

#ifdef _OPENMP
int default_threads() {
  const int most = std::min(omp_get_max_threads(), most_threads.load());
  return most > 1 ? std::min(most, cpus()) : 1;
}
#else
int default_threads() { return 1; }
#endif

void limit_threads(int most) { most_threads = most; }

namespace {

std::atomic<int> passes{0}, forks{0};

void wait() { std::this_thread::sleep_for(std::chrono::microseconds(50)); }

void prepare_fork() {
  ++forks;
  while (passes > 0) wait();
#ifdef _OPENMP
  omp_pause_resource_all(omp_pause_hard);
#endif
}

}  // namespace

// Either the pass sees the fork, or the fork the pass.
void begin_pass() {
  for (++passes; forks > 0; ++passes) {
    --passes;
    while (forks > 0) wait();
  }
}

void end_pass() { --passes; }

void survive_fork() {
#ifndef _WIN32
  // A thread that was about to begin a pass may have been counted; the child does not have it.
  pthread_atfork(prepare_fork, [] { --forks; }, [] { passes = forks = 0; });
#endif
}

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
