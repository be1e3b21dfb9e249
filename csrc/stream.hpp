// The roof that an update is measured against: its traffic and hardly any arithmetic. Included
// inside each ISA's namespace.

// The arrays are a pack of named pointers, as in the loop of the rules: over an array of pointers
// that it only reads, gcc leaves the loop scalar.
template <class... From>
[[gnu::always_inline]] inline float sum_of(std::size_t n, std::size_t ahead, const From*... from) {
  constexpr std::size_t line = line_size / sizeof(float);
  const std::size_t whole = n - n % line;
  float lane[line] = {}, sum = 0;
  for (std::size_t i = 0; i < whole; i += line) {
    fetch(ahead, from + i...);
#pragma omp simd
    for (std::size_t j = 0; j < line; ++j) lane[j] += (0.0f + ... + from[i + j]);
  }
  for (std::size_t i = whole; i < n; ++i) sum += (0.0f + ... + from[i]);
  for (const float part : lane) sum += part;
  return sum;
}

[[gnu::always_inline]] inline void halve(float* __restrict to, const float* __restrict plus,
                                         std::size_t n) {
#pragma omp simd
  for (std::size_t i = 0; i < n; ++i) to[i] = to[i] * 0.5f + plus[i];
}

template <std::size_t... U, class... From>
[[gnu::always_inline]] inline void rewrite(float* const* updated, std::index_sequence<U...>,
                                           std::size_t n, std::size_t ahead, const From*... from) {
  const auto some = [=](std::size_t begin, std::size_t count) __attribute__((always_inline)) {
    float sum[line_size / sizeof(float)];
#pragma omp simd
    for (std::size_t i = 0; i < count; ++i) sum[i] = (0.0f + ... + from[begin + i]);
    (halve(updated[U] + begin, sum, count), ...);
  };
  by_lines(n, ahead, some, updated[U]..., from...);
}

template <std::size_t U, std::size_t... R>
[[gnu::always_inline]] inline float stream(float* const* updated, float* const* read, std::size_t n,
                                           std::size_t ahead, std::index_sequence<R...>) {
  if constexpr (U == 0) {
    return sum_of(n, ahead, read[R]...);
  } else {
    rewrite(updated, std::make_index_sequence<U>{}, n, ahead, read[R]...);
    return 0;
  }
}

template <std::size_t U, std::size_t R>
float stream_of(float* const* updated, float* const* read, std::size_t n, std::size_t ahead) {
  return stream<U>(updated, read, n, ahead, std::make_index_sequence<R>{});
}
