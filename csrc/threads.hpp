// The threads of a step: OpenMP's, and the cures for what they suffer from.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "floating_point.hpp"

namespace roofstep {

// The version of OpenMP as a date, such as 201511; 0 in a build without OpenMP.
int openmp_version();

// How many threads work has that names no number: as many as OpenMP would use for this thread, but
// none for which it has no CPU, and no more than limit_threads says.
int default_threads();
void limit_threads(int most);

// Makes forks of the process safe. Each waits for the passes over memory that are under way, so
// that a child finds all of it whole, whichever thread forks; no new one begins meanwhile. And it
// lets the pool of threads go: a child would wait for threads that it does not have.
void survive_fork();
void begin_pass();
void end_pass();

// How many threads to call for work that is little, so that waking threads which have fallen asleep
// would take longer than what they then do: 1 if the last such work ended some milliseconds ago.
int threads_for_little(int threads);

// Work has ended that was for several threads, whether they were called or not.
void rest();

// The CPU of this thread; -1 where that is not known.
int current_cpu();

// Goes on on another CPU, if this thread is on the one named and may run on another.
void leave_cpu(int cpu);

// The part of the work that one thread begins with, and others go on with when theirs is done.
struct alignas(64) Share {
  std::atomic<std::size_t> next;
  std::size_t end;
};

// Calls work(k) for each k below `count`, on as many threads as there are shares, or on the calling
// one if there are none. Each begins where it began the last time, so that what it finds in its
// caches is its own. Nothing is allocated here: a step that has begun to write could not fail.
//
// A thread of the pool that has slept for some milliseconds may be woken on the CPU of the calling
// thread, and both wait by spinning: the one would have to wait for the end of the other's time
// slice, 4 ms and twice as a rule. So the caller gives way while a thread is missing, and a thread
// that finds itself on the caller's CPU leaves it. No thread waits for work that another could do.
template <class Work>
void for_each_index(std::size_t count, [[maybe_unused]] std::vector<Share>& shares,
                    const Work& work) {
#ifdef _OPENMP
  const int team = static_cast<int>(std::min(shares.size(), count));
  if (team > 1) {
    for (int t = 0; t < team; ++t) {
      shares[t].next = count * t / team;
      shares[t].end = count * (t + 1) / team;
    }
    std::atomic<int> missing{team};
    const int cpu = current_cpu();
#pragma omp parallel num_threads(team)
    {
      const DefaultFloatingPoint mode;
      const int me = omp_get_thread_num();
      const bool calling = me == 0;
      if (calling)
        missing += omp_get_num_threads() - team;  // OpenMP may give fewer
      else
        leave_cpu(cpu);
      --missing;
      for (int t = 0; t < team; ++t) {
        Share& share = shares[(me + t) % team];
        for (std::size_t k = share.next++; k < share.end; k = share.next++) {
          work(k);
          if (calling && missing > 0) std::this_thread::yield();
        }
      }
      while (calling && missing > 0) std::this_thread::yield();
    }
    return;
  }
#endif
  for (std::size_t k = 0; k < count; ++k) work(k);
}

}  // namespace roofstep
