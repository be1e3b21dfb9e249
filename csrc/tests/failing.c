// An allocator that fails when it is told to: loaded before the C library by LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static long left = -1;  // allocations until one fails; below 0: none will
static long in_a_row;   // how many then fail

// From the next allocation on, the n-th fails, and as many in a row.
void roofstep_fail(long n, long count) {
  in_a_row = count;
  __atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
}

// How many allocations would still have succeeded; below 0 if all failures have been.
long roofstep_left(void) { return __atomic_load_n(&left, __ATOMIC_SEQ_CST); }

// OpenMP's runtime ends the process where it gets no memory for threads, and the dynamic linker
// where it gets none for thread-local variables: not what is tried here.
static int is_given(void* caller) {
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname) return 0;
  return strstr(info.dli_fname, "gomp") || strstr(info.dli_fname, "ld-linux");
}

static int fails(void* caller) {
  if (__atomic_load_n(&left, __ATOMIC_SEQ_CST) < 0) return 0;
  if (is_given(caller)) return 0;
  const long before = __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST);
  if (before > 0) return 0;
  if (before < 0) {
    __atomic_store_n(&left, -1, __ATOMIC_SEQ_CST);
    return 0;
  }
  if (--in_a_row > 0) __atomic_store_n(&left, 0, __ATOMIC_SEQ_CST);
  errno = ENOMEM;
  return 1;
}

#define CALLER __builtin_return_address(0)

void* malloc(size_t size) { return fails(CALLER) ? NULL : __libc_malloc(size); }
void* calloc(size_t count, size_t size) {
  return fails(CALLER) ? NULL : __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) { return fails(CALLER) ? NULL : __libc_realloc(old, size); }
void* aligned_alloc(size_t alignment, size_t size) {
  return fails(CALLER) ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void** found, size_t alignment, size_t size) {
  if (fails(CALLER)) return ENOMEM;
  *found = __libc_memalign(alignment, size);
  return *found ? 0 : ENOMEM;
}
void* mmap(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  if (fails(CALLER)) return MAP_FAILED;
  return (void*)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}
void* mmap64(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap(at, size, protection, flags, file, offset);
}
