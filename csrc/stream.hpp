// The roof that an update is measured against: its traffic and hardly any arithmetic. Included
// inside each ISA's namespace.

template <std::size_t... U, std::size_t... R>
[[gnu::always_inline]] inline float stream(float* const* updated, float* const* read, std::size_t n,
                                           std::index_sequence<U...>, std::index_sequence<R...>) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::size_t i = 0; i < n; ++i) {
    const float x = (0.0f + ... + read[R][i]);
    ((updated[U][i] = updated[U][i] * 0.5f + x), ...);
    if constexpr (sizeof...(U) == 0) sum += x;
  }
  return sum;
}

template <std::size_t U, std::size_t R>
float stream_of(float* const* updated, float* const* read, std::size_t n) {
  return stream(updated, read, n, std::make_index_sequence<U>{}, std::make_index_sequence<R>{});
}
