// Loops that ask the memory early for what they will read. Included inside each ISA's namespace.

// What the memory moves at once, in bytes.
constexpr std::size_t line_size = 64;

// Which CPUs gain by it is known at run time alone; hidden from the compiler, the choice is one
// jump in a loop, not two loops.
template <class... T>
[[gnu::always_inline]] inline void fetch(std::size_t ahead, const T*... from) {
  asm("" : "+r"(ahead));
  if (ahead) (__builtin_prefetch(reinterpret_cast<const char*>(from) + ahead), ...);
}

// Calls some(i, count) for elements i to i + count of arrays, a line of each at a time.
template <class Some, class T, class... More>
[[gnu::always_inline]] inline void by_lines(std::size_t n, std::size_t ahead, const Some& some,
                                            const T* first, const More*... more) {
  constexpr std::size_t line = line_size / sizeof(T);
  const std::size_t whole = n - n % line;
  for (std::size_t i = 0; i < whole; i += line) {
    fetch(ahead, first + i, more + i...);
    some(i, line);
  }
  some(whole, n - whole);
}
